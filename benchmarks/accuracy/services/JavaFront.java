// SPDX-License-Identifier: Apache-2.0
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.HttpURLConnection;
import java.net.InetSocketAddress;
import java.net.URI;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

/**
 * JavaFront PORT LEAF keep|close executor|virtual: the JDK's own server, calls by HttpURLConnection. executor: handlers
 * in one pool of threads, calls in another that is smaller than the load; virtual: both in virtual threads (JDK 21).
 */
public final class JavaFront {
    private static String leaf;
    private static boolean keep;
    private static ExecutorService callers;

    private static int call(String number, int which, String what) throws IOException {
        String query = what.isEmpty() ? "" : "?do=" + what;
        URI address = URI.create("http://127.0.0.1:" + leaf + "/leaf/" + number + "/" + which + query);
        HttpURLConnection connection = (HttpURLConnection) address.toURL().openConnection();
        connection.setRequestProperty("x-truth", number + "/" + which);
        if (!keep) {
            connection.setRequestProperty("Connection", "close");
        }
        int status = connection.getResponseCode();
        try (var body = status < 400 ? connection.getInputStream() : connection.getErrorStream()) {
            body.readAllBytes();
        }
        return status;
    }

    private static Future<Integer> start(String number, int which, String what) {
        return callers.submit(() -> call(number, which, what));
    }

    private static List<Integer> statuses(String number, String shape) throws Exception {
        switch (shape) {
            case "seq":
                return List.of(start(number, 1, "").get(), start(number, 2, "").get());
            case "par":
                List<Future<Integer>> both = new ArrayList<>();
                both.add(start(number, 1, ""));
                both.add(start(number, 2, ""));
                return List.of(both.get(0).get(), both.get(1).get());
            case "retry":
                int status = start(number, 1, "fail").get();
                return List.of(status == 503 ? start(number, 1, "fail").get() : status);
            default:
                return List.of(start(number, 1, shape.equals("slow") ? "slow" : "").get());
        }
    }

    private static void front(HttpExchange exchange) throws IOException {
        String path = exchange.getRequestURI().getPath();
        String number = path.substring(path.lastIndexOf('/') + 1);
        int answer = 502;
        try {
            String shape = exchange.getRequestURI().getQuery().replace("mode=", "");
            answer = statuses(number, shape).stream().allMatch(status -> status == 200) ? 200 : 502;
        } catch (Exception error) {
            error.printStackTrace();
        }
        byte[] body = (number + "\n").getBytes();
        exchange.sendResponseHeaders(answer, body.length);
        exchange.getResponseBody().write(body);
        exchange.close();
    }

    public static void main(String[] arguments) throws Exception {
        leaf = arguments[1];
        keep = arguments[2].equals("keep");
        System.setProperty("http.maxConnections", "600");
        System.setProperty("sun.net.httpserver.maxIdleConnections", "2000");
        System.setProperty("sun.net.httpserver.nodelay", "true");
        ExecutorService handlers;
        if (arguments[3].equals("virtual")) { // by reflection, as a JDK 17 compiles this
            handlers = (ExecutorService) Executors.class.getMethod("newVirtualThreadPerTaskExecutor").invoke(null);
            callers = (ExecutorService) Executors.class.getMethod("newVirtualThreadPerTaskExecutor").invoke(null);
        } else {
            handlers = Executors.newFixedThreadPool(64);
            callers = Executors.newFixedThreadPool(16);
        }
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])), 1024);
        server.createContext("/front/", JavaFront::front);
        server.setExecutor(handlers);
        server.start();
    }
}
