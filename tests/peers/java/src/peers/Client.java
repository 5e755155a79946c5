package peers;

import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import sun.misc.Signal;

/**
 * java.net.http, as HTTP/1.1, or with "--version HTTP_2" by upgrade (it knows no prior knowledge). The last worker has a
 * client of its own, so that its connection is idle while it rests; all others share one. It repeats GET and HEAD when
 * the connection ends before the response begins, which cannot be turned off.
 */
public final class Client {
    private record Question(String method, String kind, int size) {}

    private final Tally tally;
    private final String url;
    private final HttpClient.Version version;

    private Client(Tally tally, String url, HttpClient.Version version) {
        this.tally = tally;
        this.url = url;
        this.version = version;
    }

    private HttpClient way() {
        return HttpClient.newBuilder().version(version).build();
    }

    private static List<Question> mix(List<String> kinds) {
        List<Question> mix = new ArrayList<>();
        for (int size : Contract.SIZES) {
            mix.add(new Question("GET", "body", size));
            mix.add(new Question("GET", "chunked", size));
            mix.add(new Question("HEAD", "head", size));
            mix.add(new Question("POST", "post", 0));
        }
        mix.add(new Question("GET", "status", 204));
        mix.add(new Question("GET", "status", 304));
        mix.removeIf(question -> !kinds.contains(question.kind));
        return mix;
    }

    private void ask(HttpClient way, Question question, Runnable begun) {
        boolean post = question.kind.equals("post");
        String what = post ? tally.sent() : Integer.toString(question.size);
        String folder = post ? "count" : question.kind.equals("head") ? "body" : question.kind;
        String path = "/" + folder + "/" + what;
        HttpRequest.BodyPublisher data = post
            ? HttpRequest.BodyPublishers.ofByteArray(Contract.body(1000))
            : HttpRequest.BodyPublishers.noBody();
        HttpRequest request = HttpRequest.newBuilder(URI.create(url + path))
            .method(question.method, data).timeout(Duration.ofSeconds(15)).build();
        try {
            HttpResponse<InputStream> response = way.send(request, HttpResponse.BodyHandlers.ofInputStream());
            byte[] got;
            try (InputStream in = response.body()) {
                byte[] first = in.readNBytes(1);
                begun.run();
                byte[] rest = in.readAllBytes();
                got = Arrays.copyOf(first, first.length + rest.length);
                System.arraycopy(rest, 0, got, first.length, rest.length);
            }
            check(question, what, response, got);
            tally.right(post);
        } catch (Exception error) {
            tally.failed(path, error);
        }
    }

    private static void check(Question question, String what, HttpResponse<InputStream> response, byte[] got)
        throws Tally.Wrong {
        int status = question.kind.equals("status") ? question.size : 200;
        if (response.statusCode() != status) {
            throw new Tally.Wrong("status " + response.statusCode());
        }
        byte[] wanted = switch (question.kind) {
            case "status", "head" -> new byte[0];
            case "post" -> what.getBytes();
            default -> Contract.body(question.size);
        };
        if (question.kind.equals("post")) {
            got = new String(got).trim().getBytes();
        }
        if (!Arrays.equals(got, wanted)) {
            throw new Tally.Wrong(got.length + " bytes instead of " + wanted.length + ", or others");
        }
        long announced = response.headers().firstValueAsLong("content-length").orElse(0);
        if (question.kind.equals("head") && announced != question.size) {
            throw new Tally.Wrong("HEAD announces " + announced);
        }
    }

    public static void main(String[] args) throws Exception {
        Map<String, String> options = Contract.options(args);
        int connections = Integer.parseInt(options.get("--connections"));
        List<String> kinds = List.of(options.get("--kinds").split(","));
        boolean slow = kinds.contains("slow");
        Tally tally = new Tally(Integer.parseInt(options.get("--warm")), slow);
        HttpClient.Version version = HttpClient.Version.valueOf(options.getOrDefault("--version", "HTTP_1_1"));
        Client client = new Client(tally, options.get("--url"), version);
        Signal.handle(new Signal("TERM"), signal -> tally.stop.countDown());
        HttpClient shared = client.way();
        HttpClient own = client.way();
        List<Question> mix = mix(kinds);
        List<Thread> workers = new ArrayList<>();
        for (int number = 0; number < connections; number++) {
            int index = number;
            HttpClient way = index == connections - 1 ? own : shared;
            Thread worker = new Thread(() -> {
                boolean slowWaits = index == 0 && slow;
                for (int turn = 0; !tally.stopped(); turn++) {
                    if (slowWaits && tally.isWarm()) {
                        slowWaits = false;
                        Question question = new Question("GET", "slow", Contract.SLOW);
                        client.ask(way, question, () -> System.out.println("warm"));
                    }
                    client.ask(way, mix.get(turn % mix.size()), () -> {});
                    try {
                        tally.pause(index, connections);
                    } catch (InterruptedException error) {
                        return;
                    }
                }
            });
            worker.setDaemon(true);
            worker.start();
            workers.add(worker);
        }
        tally.stop.await();
        long end = System.nanoTime() + Duration.ofSeconds(15).toNanos();
        for (Thread worker : workers) {
            worker.join(Math.max(1, (end - System.nanoTime()) / 1_000_000));
            if (worker.isAlive()) {
                tally.failed("stop", new IllegalStateException("a request did not end"));
            }
        }
        System.out.println(tally.summary());
        System.exit(0);
    }
}
