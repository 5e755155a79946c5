import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.context.annotation.Bean;
import org.springframework.web.servlet.function.RouterFunction;
import org.springframework.web.servlet.function.RouterFunctions;
import org.springframework.web.servlet.function.ServerResponse;

/** A Spring Cloud application that registers itself with Eureka. */
@EnableAutoConfiguration
public class Web {
    @Bean
    RouterFunction<ServerResponse> hello() {
        return RouterFunctions.route().GET("/", request -> ServerResponse.ok().body("hello\n")).build();
    }

    public static void main(String[] args) {
        SpringApplication.run(Web.class, args);
    }
}
