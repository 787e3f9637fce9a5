//! Distributions of durations as Prometheus has them.

use dormouse_storage::durations::DurationCounts;
use prometheus::proto::{Bucket, Histogram as PrometheusHistogram};

use crate::metering::Histogram;

/// Each step of the commands' histograms is twice as long as the one before; here every second one is shown.
const SHOWN_STEP: usize = 2;

/// The distribution of calls that took `nanoseconds` in total.
pub fn of_calls(calls: &Histogram, nanoseconds: u64) -> PrometheusHistogram {
    histogram(calls.calls(), nanoseconds as f64 / 1e9, calls.bounded_steps().step_by(SHOWN_STEP))
}

pub fn of_durations(durations: &DurationCounts) -> PrometheusHistogram {
    histogram(durations.count(), durations.sum_us as f64 / 1e6, durations.steps())
}

/// `steps`: their ends in microseconds, each with the count up to it. What is beyond the last is in the total only.
fn histogram(count: u64, sum_seconds: f64, steps: impl Iterator<Item = (u64, u64)>) -> PrometheusHistogram {
    let bucket = |(end_us, count): (u64, u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(end_us as f64 / 1e6);
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut histogram = PrometheusHistogram::default();
    histogram.set_sample_count(count);
    histogram.set_sample_sum(sum_seconds);
    histogram.set_bucket(steps.map(bucket).collect());
    histogram
}
