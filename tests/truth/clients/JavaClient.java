// SPDX-License-Identifier: Apache-2.0
import java.io.FileInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/** Asks with the JDK's HttpClient. Usage: JavaClient PLAN (h1|h2); PLAN and output are as requests_client.py has them. */
public class JavaClient {
    static final Pattern LINE = Pattern.compile("\\[(\\d+), \"(\\w+)\", \"([^\"]+)\", (\\d+), \\{\\}\\]");

    public static void main(String[] arguments) throws Exception {
        boolean second = arguments[1].equals("h2");
        HttpClient client = HttpClient.newBuilder().sslContext(trusting(System.getenv("SSL_CERT_FILE")))
            .version(second ? HttpClient.Version.HTTP_2 : HttpClient.Version.HTTP_1_1).build();
        for (String line : Files.readAllLines(Path.of(arguments[0]))) {
            Matcher found = LINE.matcher(line);
            if (!found.matches()) throw new IllegalArgumentException(line);
            HttpRequest request = HttpRequest.newBuilder(URI.create(found.group(3)))
                .method(found.group(2), body(Integer.parseInt(found.group(4)))).build();
            long start = System.currentTimeMillis() * 1_000_000, began = System.nanoTime();
            HttpResponse<byte[]> response = client.send(request, HttpResponse.BodyHandlers.ofByteArray());
            long took = System.nanoTime() - began;
            System.out.printf("[%s, %d, %d, %d]%n", found.group(1), response.statusCode(), start, took);
        }
        System.out.flush();
        System.in.read(); // until told to end
        System.exit(0);
    }

    static HttpRequest.BodyPublisher body(int size) {
        return size == 0 ? HttpRequest.BodyPublishers.noBody() : HttpRequest.BodyPublishers.ofString("b".repeat(size));
    }

    static SSLContext trusting(String path) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null);
        try (FileInputStream file = new FileInputStream(path)) {
            store.setCertificateEntry("it", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        return context;
    }
}
