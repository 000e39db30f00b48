// SPDX-License-Identifier: Apache-2.0
import io.netty.bootstrap.ServerBootstrap;
import io.netty.buffer.ByteBuf;
import io.netty.buffer.Unpooled;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.SimpleChannelInboundHandler;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.SocketChannel;
import io.netty.channel.socket.nio.NioServerSocketChannel;
import io.netty.handler.codec.http.DefaultFullHttpResponse;
import io.netty.handler.codec.http.FullHttpRequest;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpMethod;
import io.netty.handler.codec.http.HttpObjectAggregator;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpServerCodec;
import io.netty.handler.codec.http.HttpServerKeepAliveHandler;
import io.netty.handler.codec.http.HttpVersion;
import io.netty.handler.ssl.SslContext;
import io.netty.handler.ssl.SslContextBuilder;
import io.netty.handler.ssl.SslProvider;
import java.io.File;

/** Netty over its own copy of BoringSSL. Usage: NettyShop PORT CERTIFICATE KEY */
public class NettyShop extends SimpleChannelInboundHandler<FullHttpRequest> {
    public static void main(String[] arguments) throws Exception {
        SslContext tls = SslContextBuilder.forServer(new File(arguments[1]), new File(arguments[2]))
            .sslProvider(SslProvider.OPENSSL).build();
        new ServerBootstrap().group(new NioEventLoopGroup(2)).channel(NioServerSocketChannel.class)
            .childHandler(new ChannelInitializer<SocketChannel>() {
                @Override
                protected void initChannel(SocketChannel channel) {
                    channel.pipeline().addLast(tls.newHandler(channel.alloc()), new HttpServerCodec(),
                        new HttpServerKeepAliveHandler(), new HttpObjectAggregator(1 << 20), new NettyShop());
                }
            }).bind("127.0.0.1", Integer.parseInt(arguments[0])).sync();
    }

    @Override
    protected void channelRead0(ChannelHandlerContext context, FullHttpRequest request) {
        System.out.println("\"" + request.method() + " " + request.uri() + " " + request.protocolVersion() + "\"");
        String path = request.uri().split("\\?")[0];
        HttpResponseStatus status = path.equals("/boom") ? HttpResponseStatus.INTERNAL_SERVER_ERROR
            : path.equals("/missing") ? HttpResponseStatus.NOT_FOUND : HttpResponseStatus.OK;
        ByteBuf body = path.equals("/echo") ? request.content().retain()
            : Unpooled.wrappedBuffer(path.equals("/stream") ? new byte[65536] : path.getBytes());
        int size = body.readableBytes();
        boolean head = request.method().equals(HttpMethod.HEAD);
        FullHttpResponse response =
            new DefaultFullHttpResponse(HttpVersion.HTTP_1_1, status, head ? Unpooled.EMPTY_BUFFER : body);
        response.headers().set("content-length", size);
        context.writeAndFlush(response);
    }
}
