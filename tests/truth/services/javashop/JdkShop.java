// SPDX-License-Identifier: Apache-2.0
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpsConfigurator;
import com.sun.net.httpserver.HttpsServer;
import java.io.FileInputStream;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.security.KeyStore;
import java.util.concurrent.Executors;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;

/** The JDK's own server over the JDK's own TLS. Usage: JdkShop PORT KEYSTORE (PKCS 12, password "secret") */
public class JdkShop {
    public static void main(String[] arguments) throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12");
        try (FileInputStream file = new FileInputStream(arguments[1])) {
            store.load(file, "secret".toCharArray());
        }
        KeyManagerFactory keys = KeyManagerFactory.getInstance("SunX509");
        keys.init(store, "secret".toCharArray());
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), null, null);
        HttpsServer server =
            HttpsServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])), 0);
        server.setHttpsConfigurator(new HttpsConfigurator(context));
        server.setExecutor(Executors.newFixedThreadPool(8));
        server.createContext("/", JdkShop::answer);
        server.start();
    }

    static void answer(HttpExchange exchange) throws IOException {
        System.out.println("\"" + exchange.getRequestMethod() + " " + exchange.getRequestURI() + " HTTP/1.1\"");
        String path = exchange.getRequestURI().getPath();
        byte[] asked = exchange.getRequestBody().readAllBytes();
        byte[] body = path.equals("/echo") ? asked : path.equals("/stream") ? new byte[65536] : path.getBytes();
        int status = path.equals("/boom") ? 500 : path.equals("/missing") ? 404 : 200;
        boolean head = exchange.getRequestMethod().equals("HEAD");
        // It closes as it is asked to, but does not say so, and clients then use the connection once more.
        if ("close".equalsIgnoreCase(exchange.getRequestHeaders().getFirst("Connection")))
            exchange.getResponseHeaders().set("Connection", "close");
        exchange.sendResponseHeaders(status, head ? -1 : body.length);
        if (!head) exchange.getResponseBody().write(body);
        exchange.getResponseBody().close(); // exchange.close() may end the connection too
    }
}
