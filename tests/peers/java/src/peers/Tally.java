package peers;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** How a client's requests went; says "warm" when the drain may begin, and knows when to stop. */
final class Tally {
    /** A response that is complete and not right. */
    static final class Wrong extends Exception {
        private static final long serialVersionUID = 1;

        Wrong(String text) {
            super(text);
        }
    }

    final CountDownLatch stop = new CountDownLatch(1);
    private final int warm;
    private final boolean slow;
    private int responses;
    private int badCount;
    private int errorCount;
    private int sent;
    private int answered;
    private final List<String> bad = new ArrayList<>();
    private final List<String> errors = new ArrayList<>();

    Tally(int warm, boolean slow) {
        this.warm = warm;
        this.slow = slow;
    }

    synchronized boolean isWarm() {
        return responses >= warm;
    }

    synchronized void right(boolean post) {
        responses++;
        answered += post ? 1 : 0;
        if (responses == warm && !slow) {
            System.out.println("warm");
        }
    }

    synchronized void failed(String what, Throwable error) {
        StringBuilder text = new StringBuilder(what);
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            text.append(": ").append(cause);
        }
        boolean wrong = error instanceof Wrong;
        badCount += wrong ? 1 : 0;
        errorCount += wrong ? 0 : 1;
        List<String> list = wrong ? bad : errors;
        if (list.size() < 5) {
            list.add(text.toString());
        }
    }

    /** A new id for a request with a side effect. */
    synchronized String sent() {
        sent++;
        return ProcessHandle.current().pid() + "-" + sent;
    }

    boolean stopped() {
        return stop.getCount() == 0;
    }

    void pause(int index, int connections) throws InterruptedException {
        if (connections > 1 && index == connections - 1) {
            stop.await(1500, TimeUnit.MILLISECONDS);
        } else if (index > 0 && isWarm()) {
            stop.await(2, TimeUnit.MILLISECONDS);
        }
    }

    synchronized String summary() {
        return String.format(
            "{\"responses\":%d,\"bad\":%s,\"bad_count\":%d,\"errors\":%s,\"error_count\":%d,\"reconnects\":0,"
                + "\"posts\":{\"sent\":%d,\"answered\":%d}}",
            responses, json(bad), badCount, json(errors), errorCount, sent, answered);
    }

    private static String json(List<String> texts) {
        List<String> quoted = new ArrayList<>();
        for (String text : texts) {
            quoted.add('"' + text.replaceAll("[\\\\\"\\p{Cntrl}]", " ") + '"');
        }
        return "[" + String.join(",", quoted) + "]";
    }
}
