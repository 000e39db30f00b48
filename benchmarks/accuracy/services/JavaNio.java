// SPDX-License-Identifier: Apache-2.0
import java.net.InetSocketAddress;
import java.net.StandardSocketOptions;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentLinkedQueue;

/**
 * JavaNio PORT LEAF keep|close: one thread with a Selector reads requests and writes responses; calls by the JDK's
 * HttpClient.sendAsync, whose own selector thread completes them in its pool.
 */
public final class JavaNio {
    private record Answer(SocketChannel channel, String number, boolean done, boolean close) {}

    private static final ConcurrentLinkedQueue<Answer> ANSWERS = new ConcurrentLinkedQueue<>();
    private static final HttpClient CLIENT = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    private static String leaf;
    private static boolean keep;
    private static Selector selector;

    private static CompletableFuture<Integer> call(String number, int which, String what) {
        String query = what.isEmpty() ? "" : "?do=" + what;
        URI address = URI.create("http://127.0.0.1:" + leaf + "/leaf/" + number + "/" + which + query);
        HttpRequest.Builder request = HttpRequest.newBuilder(address).header("x-truth", number + "/" + which);
        if (!keep) {
            request.header("Connection", "close");
        }
        return CLIENT.sendAsync(request.build(), HttpResponse.BodyHandlers.ofString()).thenApply(HttpResponse::statusCode);
    }

    private static CompletableFuture<Boolean> work(String number, String shape) {
        CompletableFuture<Integer> first;
        switch (shape) {
            case "seq":
                first = call(number, 1, "");
                return first.thenCompose(one -> call(number, 2, "").thenApply(two -> one == 200 && two == 200));
            case "par":
                first = call(number, 1, "");
                return first.thenCombine(call(number, 2, ""), (one, two) -> one == 200 && two == 200);
            case "retry":
                return call(number, 1, "fail")
                        .thenCompose(one -> one == 503 ? call(number, 1, "fail") : CompletableFuture.completedFuture(one))
                        .thenApply(status -> status == 200);
            default:
                return call(number, 1, shape.equals("slow") ? "slow" : "").thenApply(status -> status == 200);
        }
    }

    private static void read(SelectionKey key) throws Exception {
        SocketChannel channel = (SocketChannel) key.channel();
        ByteBuffer buffer = (ByteBuffer) key.attachment();
        int count;
        try {
            count = channel.read(buffer);
        } catch (java.io.IOException reset) {
            count = -1;
        }
        if (count < 0) {
            channel.close();
            return;
        }
        String text = new String(buffer.array(), 0, buffer.position());
        if (!text.endsWith("\r\n\r\n")) {
            return;
        }
        buffer.clear();
        URI target = URI.create(text.split(" ", 3)[1]);
        String number = target.getPath().substring(target.getPath().lastIndexOf('/') + 1);
        boolean close = text.toLowerCase().contains("\r\nconnection: close");
        work(number, target.getQuery().replace("mode=", "")).whenComplete((done, error) -> {
            if (error != null) {
                error.printStackTrace();
            }
            ANSWERS.add(new Answer(channel, number, error == null && done, close));
            selector.wakeup();
        });
    }

    private static void write(Answer answer) throws Exception {
        String body = answer.number + "\n";
        String status = answer.done ? "200 OK" : "502 Bad Gateway";
        String more = answer.close ? "Connection: close\r\n" : "";
        String head = "HTTP/1.1 " + status + "\r\n" + more + "Content-Length: " + body.length() + "\r\n\r\n";
        answer.channel.write(ByteBuffer.wrap((head + body).getBytes()));
        if (answer.close) {
            answer.channel.close();
        }
    }

    public static void main(String[] arguments) throws Exception {
        leaf = arguments[1];
        keep = arguments[2].equals("keep");
        selector = Selector.open();
        ServerSocketChannel server = ServerSocketChannel.open();
        server.bind(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])), 1024);
        server.configureBlocking(false);
        server.register(selector, SelectionKey.OP_ACCEPT);
        while (true) {
            selector.select();
            for (SelectionKey key : selector.selectedKeys()) {
                if (key.isAcceptable()) {
                    SocketChannel accepted = server.accept();
                    accepted.setOption(StandardSocketOptions.TCP_NODELAY, true);
                    accepted.configureBlocking(false);
                    accepted.register(selector, SelectionKey.OP_READ, ByteBuffer.allocate(8192));
                } else {
                    read(key);
                }
            }
            selector.selectedKeys().clear();
            for (Answer answer = ANSWERS.poll(); answer != null; answer = ANSWERS.poll()) {
                write(answer);
            }
        }
    }
}
