import java.time.Duration;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import org.springframework.context.annotation.AnnotationConfigApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.event.EventListener;
import org.springframework.data.redis.connection.RedisStandaloneConfiguration;
import org.springframework.data.redis.connection.lettuce.LettuceClientConfiguration;
import org.springframework.data.redis.connection.lettuce.LettuceConnectionFactory;
import org.springframework.session.FindByIndexNameSessionRepository;
import org.springframework.session.Session;
import org.springframework.session.data.redis.RedisIndexedSessionRepository;
import org.springframework.session.data.redis.config.annotation.web.http.EnableRedisIndexedHttpSession;
import org.springframework.session.events.AbstractSessionEvent;

/** Spring Session over Spring Data Redis: sessions that are found by a user's name, and whose end is an event. */
public final class SpringSessionSteps {
    /** An application with its sessions. The server tells it of keys that expire, which it asks for by itself. */
    @Configuration
    @EnableRedisIndexedHttpSession(cleanupCron = "* * * * * *")
    static class Application {
        private final List<String> events = new CopyOnWriteArrayList<>();

        @Bean
        LettuceConnectionFactory redisConnectionFactory() {
            // On a busy machine a command may take long.
            Duration limit = Duration.ofMillis(Steps.LIMIT_MS);
            LettuceClientConfiguration client = LettuceClientConfiguration.builder().commandTimeout(limit).build();
            return new LettuceConnectionFactory(new RedisStandaloneConfiguration("127.0.0.1", Steps.PORT), client);
        }

        @EventListener
        void hear(AbstractSessionEvent event) {
            events.add(event.getClass().getSimpleName() + " " + event.getSessionId());
        }
    }

    private final AnnotationConfigApplicationContext context;
    private final Application application;
    private final RedisIndexedSessionRepository sessions;

    private SpringSessionSteps() {
        context = new AnnotationConfigApplicationContext(Application.class);
        application = context.getBean(Application.class);
        sessions = context.getBean(RedisIndexedSessionRepository.class);
    }

    public static void main(String[] arguments) {
        SpringSessionSteps spring = new SpringSessionSteps();
        new Steps()
                .step("sessions are kept", spring::sessionsAreKept)
                .step("sessions are found by name", spring::sessionsAreFoundByName)
                .step("sessions expire, and the application is told", spring::sessionsExpire)
                .run();
    }

    /** Saves a session of `user`, and returns its id. */
    private <S extends Session> String save(FindByIndexNameSessionRepository<S> repository, String user, Duration idle) {
        S session = repository.createSession();
        session.setAttribute(FindByIndexNameSessionRepository.PRINCIPAL_NAME_INDEX_NAME, user);
        session.setAttribute("cart", List.of("tea"));
        session.setMaxInactiveInterval(idle);
        repository.save(session);
        return session.getId();
    }

    private void sessionsAreKept() throws Exception {
        sessionIsKept(sessions);
    }

    private <S extends Session> void sessionIsKept(FindByIndexNameSessionRepository<S> repository) throws Exception {
        String id = save(repository, "ada", Duration.ofHours(1));
        Steps.until("its beginning is told", () -> application.events.contains("SessionCreatedEvent " + id));
        Steps.sleep();
        S session = repository.findById(id);
        Steps.equal(session.getAttribute("cart"), List.of("tea"));
        session.setAttribute("cart", List.of("tea", "milk"));
        Steps.sleep();
        repository.save(session);
        Steps.sleep();
        String changed = session.changeSessionId();
        repository.save(session);
        Steps.sleep();
        Steps.check(repository.findById(id) == null, "the old id is known");
        Steps.equal(repository.findById(changed).getAttribute("cart"), List.of("tea", "milk"));
        repository.deleteById(changed);
        Steps.check(repository.findById(changed) == null, "it was not deleted");
        Steps.until("its end is told", () -> application.events.contains("SessionDeletedEvent " + changed));
    }

    private void sessionsAreFoundByName() throws Exception {
        String first = save(sessions, "bob", Duration.ofHours(1));
        String second = save(sessions, "bob", Duration.ofHours(1));
        save(sessions, "eve", Duration.ofHours(1));
        Steps.sleep();
        Steps.equal(sessions.findByPrincipalName("bob").keySet(), java.util.Set.of(first, second));
        sessions.deleteById(first);
        Steps.sleep();
        Steps.equal(sessions.findByPrincipalName("bob").keySet(), java.util.Set.of(second));
    }

    private void sessionsExpire() throws Exception {
        long start = System.nanoTime();
        String id = save(sessions, "ada", Duration.ofSeconds(2));
        Steps.sleep();
        boolean isFound = sessions.findById(id) != null;
        // On a busy machine it has expired by then.
        Steps.check(isFound || System.nanoTime() - start > 2_000_000_000L, "it has expired early");
        Steps.until("its end is told", () -> application.events.contains("SessionExpiredEvent " + id));
        Steps.sleep();
        Steps.check(sessions.findById(id) == null && sessions.findByPrincipalName("ada").isEmpty(), "it is still found");
    }
}
