package peers;

import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Map;
import java.util.logging.Level;
import java.util.logging.Logger;
import org.apache.catalina.Context;
import org.apache.catalina.connector.Connector;
import org.apache.catalina.startup.Tomcat;
import org.apache.coyote.http2.Http2Protocol;

/** Tomcat: HTTP/1.1, and HTTP/2 in clear text by prior knowledge and by upgrade. */
public final class Server extends HttpServlet {
    private final transient FileOutputStream executed;

    private Server(FileOutputStream executed) {
        this.executed = executed;
    }

    @Override
    protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
        String[] parts = request.getRequestURI().split("/");
        String kind = parts[1];
        String what = parts[2];
        OutputStream out = response.getOutputStream();
        switch (kind) {
            case "body" -> {
                int size = Integer.parseInt(what);
                response.setContentLength(size);
                if (!request.getMethod().equals("HEAD")) {
                    out.write(Contract.body(size));
                }
            }
            case "chunked" -> pieces(response, Integer.parseInt(what), 0);
            case "slow" -> {
                response.setContentLength(Integer.parseInt(what));
                pieces(response, Integer.parseInt(what), Contract.PAUSE_MS);
            }
            case "count" -> {
                request.getInputStream().readAllBytes();
                synchronized (executed) {
                    executed.write((what + "\n").getBytes(StandardCharsets.US_ASCII));
                }
                out.write(what.getBytes(StandardCharsets.US_ASCII));
            }
            default -> response.setStatus(Integer.parseInt(what));
        }
    }

    private static void pieces(HttpServletResponse response, int size, int pause) throws IOException {
        byte[] body = Contract.body(size);
        int step = Math.max(1, size / Contract.PIECES);
        response.flushBuffer();
        for (int at = 0; at < size; at += step) {
            response.getOutputStream().write(body, at, Math.min(step, size - at));
            response.flushBuffer();
            try {
                Thread.sleep(pause); // not a wait for a state: the server's pace
            } catch (InterruptedException error) {
                throw new IOException(error);
            }
        }
    }

    public static void main(String[] args) throws Exception {
        Map<String, String> options = Contract.options(args);
        Logger.getLogger("org.apache").setLevel(Level.WARNING);
        Connector connector = new Connector("HTTP/1.1");
        connector.setPort(Integer.parseInt(options.get("--port")));
        // Connections stay until somebody ends them.
        connector.setProperty("keepAliveTimeout", "300000");
        connector.setProperty("maxKeepAliveRequests", "-1");
        Http2Protocol http2 = new Http2Protocol();
        // It takes small DATA frames, which flow control can make, for an attack.
        http2.setOverheadDataThreshold(0);
        http2.setOverheadWindowUpdateThreshold(0);
        connector.addUpgradeProtocol(http2);
        Tomcat tomcat = new Tomcat();
        String folder = Path.of(options.get("--executed")).toAbsolutePath().getParent().toString();
        tomcat.setBaseDir(folder);
        tomcat.setConnector(connector);
        Context context = tomcat.addContext("", folder);
        Tomcat.addServlet(context, "peer", new Server(new FileOutputStream(options.get("--executed"), true)));
        context.addServletMappingDecoded("/*", "peer");
        tomcat.start();
        tomcat.getServer().await();
    }
}
