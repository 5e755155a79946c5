package peers;

import java.util.HashMap;
import java.util.Map;

/** What server and client share: bodies and command lines. The contract itself is in ../../../README.md. */
final class Contract {
    static final int[] SIZES = {0, 1, 100, 1000, 10_000, 100_000};
    static final int SLOW = 90_000;
    static final int PIECES = 30;
    static final int PAUSE_MS = 100;

    private Contract() {}

    /** Byte by byte what a body of this size is. */
    static byte[] body(int size) {
        byte[] body = new byte[size];
        for (int i = 0; i < size; i++) {
            body[i] = (byte) ((i * 31 + size) % 251);
        }
        return body;
    }

    /** Options as "--name value" or "--name=value". */
    static Map<String, String> options(String[] args) {
        Map<String, String> options = new HashMap<>();
        for (int i = 0; i < args.length; i++) {
            String[] parts = args[i].split("=", 2);
            options.put(parts[0], parts.length > 1 ? parts[1] : args[++i]);
        }
        return options;
    }
}
