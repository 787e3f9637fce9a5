//! Spans of requests, for OpenTelemetry traces.
//!
//! 1. A request over HTTP is a span. With a `traceparent` it belongs to the caller's trace.
//! 2. A command over RESP is a span if it does not run at once on its worker: it waits for a wake, a load, a lock, or the slow
//!    lane. The others take about a microsecond, less than a span does.
//! 3. Wakes, sleeps, checkpoints and branches are spans of the engine.
//!
//! A span tells the names of commands, routes and databases, and never a key, a value or a token. A build without the feature
//! `opentelemetry` makes none of them.

use hyper::{HeaderMap, Response};
use tracing::Span;
use tracing::field::Empty;

use dormouse_shard::timings::SPANS;

/// The field of a span that has the name of its database.
const DATABASE: &str = "dormouse.database";
const STATUS: &str = "http.response.status_code";

/// Returns the span of a request over HTTP, of which `route` has nothing that a client puts in.
pub fn of_request(method: &str, route: &'static str, headers: &HeaderMap) -> Span {
    let span = tracing::info_span!(
        target: SPANS,
        "request",
        otel.name = Empty,
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        dormouse.database = Empty,
    );
    if !span.is_disabled() {
        span.record("otel.name", format!("{method} {route}"));
        export::continue_trace(&span, headers);
    }
    span
}

/// Whether spans go anywhere.
pub fn are_wanted() -> bool {
    tracing::span_enabled!(target: SPANS, tracing::Level::INFO)
}

/// Returns the span of a command by its name in the table.
pub fn of_command(name: &str, database: &str, client: u64) -> Span {
    tracing::info_span!(
        target: SPANS,
        "command",
        otel.name = name,
        otel.kind = "server",
        db.system.name = "redis",
        db.operation.name = name,
        dormouse.database = database,
        dormouse.client = client,
    )
}

/// Notes in the request's span which database it is for.
pub fn note_database(name: &str) {
    Span::current().record(DATABASE, name);
}

pub fn note_status<B>(span: &Span, response: &Response<B>) {
    span.record(STATUS, response.status().as_u16());
}

#[cfg(feature = "opentelemetry")]
pub mod export {
    //! The way of spans to a collector: OTLP over HTTP, in batches of a bounded queue, by a thread of its own.

    use std::env;

    use hyper::HeaderMap;
    use opentelemetry::propagation::{Extractor, TextMapPropagator};
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_otlp::SpanExporter;
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing::{Span, Subscriber};
    use tracing_opentelemetry::OpenTelemetrySpanExt;
    use tracing_subscriber::Layer;
    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::registry::LookupSpan;

    use super::SPANS;

    /// Sends spans as long as it is kept, and the last of them when it is dropped.
    #[derive(Debug, Default)]
    pub struct Exporter(Option<SdkTracerProvider>);

    impl Exporter {
        /// Starts the export if the standard variables of OpenTelemetry name a collector.
        ///
        /// # Errors
        /// If the variables cannot be understood.
        pub fn start() -> Result<Self, String> {
            if super::endpoint().is_none() {
                return Ok(Self::default());
            }
            let exporter = SpanExporter::builder().with_http().build();
            let exporter = exporter.map_err(|error| format!("cannot export traces: {error}"))?;
            let mut resource = Resource::builder();
            if env::var_os("OTEL_SERVICE_NAME").is_none() {
                resource = resource.with_service_name("dormouse");
            }
            let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build());
            Ok(Self(Some(provider.build())))
        }

        /// Says where spans go.
        pub fn check(&self) {
            if let Some(name) = super::endpoint() {
                tracing::info!("traces go to the collector that {name} names");
            }
        }

        /// Returns the layer that takes the spans, if they are exported.
        pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> Option<impl Layer<S>> {
            let tracer = self.0.as_ref()?.tracer("dormouse");
            let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false);
            Some(layer.with_filter(filter_fn(|of| of.is_span() && of.target() == SPANS)))
        }
    }

    impl Drop for Exporter {
        fn drop(&mut self) {
            if let Some(provider) = self.0.take()
                && let Err(error) = provider.shutdown()
            {
                tracing::warn!(%error, "the last traces were not sent");
            }
        }
    }

    struct Headers<'a>(&'a HeaderMap);

    impl Extractor for Headers<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            self.0.get(key)?.to_str().ok()
        }

        fn keys(&self) -> Vec<&str> {
            self.0.keys().map(|name| name.as_str()).collect()
        }
    }

    /// Makes the span a part of the trace that the headers tell of.
    pub(super) fn continue_trace(span: &Span, headers: &HeaderMap) {
        // A span that has no parent begins a trace, so nothing has to be done if this fails.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&Headers(headers)));
    }
}

#[cfg(not(feature = "opentelemetry"))]
pub mod export {
    //! A build that sends no traces.

    use hyper::HeaderMap;
    use tracing::{Span, Subscriber};
    use tracing_subscriber::Layer;
    use tracing_subscriber::layer::Identity;

    #[derive(Debug, Default)]
    pub struct Exporter;

    impl Exporter {
        /// # Errors
        /// None.
        pub fn start() -> Result<Self, String> {
            Ok(Self)
        }

        /// Warns if the variables name a collector: Kubernetes operators set them for every pod, so it is no error.
        pub fn check(&self) {
            if let Some(name) = super::endpoint() {
                tracing::warn!("{name} is set, but this build sends no traces: it lacks the feature `opentelemetry`");
            }
        }

        pub fn layer<S: Subscriber>(&self) -> Option<impl Layer<S>> {
            None::<Identity>
        }
    }

    pub(super) fn continue_trace(_: &Span, _: &HeaderMap) {}
}

/// Returns the standard variable that names a collector, if one is set.
fn endpoint() -> Option<&'static str> {
    let names = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
    names.into_iter().find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}
