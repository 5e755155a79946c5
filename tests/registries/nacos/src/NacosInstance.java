import com.alibaba.nacos.api.naming.NamingFactory;
import com.alibaba.nacos.api.naming.pojo.Instance;
import java.util.Map;

/** Registers an ephemeral instance as applications do, and keeps it registered for as long as it lives. */
public class NacosInstance {
    public static void main(String[] args) throws Exception {
        var instance = new Instance();
        instance.setIp(args[1]);
        instance.setPort(Integer.parseInt(args[2]));
        instance.setWeight(2.5);
        instance.setMetadata(Map.of("zone", "a"));
        NamingFactory.createNamingService(args[0]).registerInstance("web", instance);
        Thread.currentThread().join();
    }
}
