//! Usage windows as other programs take them: CloudEvents 1.0, one JSON object a line, and CSV.
//!
//! Each event is one meter of one window. Its id is the same each time, so a receiver that drops ids that it has seen, as
//! billing systems do, counts nothing twice.

use serde_json::{Value, json};

use super::usage::UsageWindow;
use super::{Meter, rfc3339};

/// The source and the type of every event: with the id they identify it.
const SOURCE: &str = "dormouse";
const TYPE: &str = "dormouse.usage";

/// The events of a window, each as JSON.
pub fn events(window: &UsageWindow) -> impl Iterator<Item = String> {
    window.events().map(|event| cloud_event(window, event.meter, &event.id, window.quantity(event.meter)).to_string())
}

/// One event a line, in the order of the windows.
pub fn cloud_events(windows: &[UsageWindow]) -> String {
    lines(windows, |window, meter, id, quantity| cloud_event(window, meter, id, quantity).to_string())
}

/// A line of names, then one line for each event.
pub fn csv(windows: &[UsageWindow]) -> String {
    let line = |window: &UsageWindow, meter: Meter, id: &str, quantity: u128| {
        let (start, end) = (rfc3339(window.start_ms), rfc3339(window.end_ms));
        let billable = billable(window, meter).map_or_else(String::new, |billable| billable.to_string());
        // Neither names of databases nor meters have commas or quotes.
        format!("{id},{},{},{start},{end},{quantity},{billable}", window.database, meter.name())
    };
    String::from("id,database,meter,start,end,quantity,billable\n") + &lines(windows, line)
}

fn lines(windows: &[UsageWindow], line: impl Fn(&UsageWindow, Meter, &str, u128) -> String) -> String {
    let mut out = String::new();
    for window in windows {
        for event in window.events() {
            out += &line(window, event.meter, &event.id, window.quantity(event.meter));
            out.push('\n');
        }
    }
    out
}

/// An event with everything that CloudEvents asks for.
pub fn envelope(id: &str, kind: &str, database: &str, at_ms: u64, data: Value) -> Value {
    json!({
        "specversion": "1.0",
        "id": id,
        "source": SOURCE,
        "type": kind,
        "subject": database,
        "time": rfc3339(at_ms),
        "datacontenttype": "application/json",
        "data": data,
    })
}

/// Quantities are texts, as they may be too large for numbers of JSON.
fn cloud_event(window: &UsageWindow, meter: Meter, id: &str, quantity: u128) -> Value {
    let mut data = json!({
        "meter": meter.name(),
        "quantity": quantity.to_string(),
        "start": rfc3339(window.start_ms),
        "end": rfc3339(window.end_ms),
    });
    if let Some(billable) = billable(window, meter) {
        data["billable"] = json!(billable.to_string());
    }
    envelope(id, TYPE, &window.database, window.end_ms, data)
}

/// The part of a meter that is billed, if not all of it is.
fn billable(window: &UsageWindow, meter: Meter) -> Option<u128> {
    meter.unbilled().map(|unbilled| window.quantity(meter).saturating_sub(window.quantity(unbilled)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_meter_of_a_window_is_an_event() {
        let quantities = [(0, 5), (6, u128::MAX), (17, 2)];
        let window = UsageWindow::of("shop", 0, 1_796_475_600_000, 1_796_475_660_000, &quantities);
        let events = cloud_events(std::slice::from_ref(&window));
        let first: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
        let expected = json!({
            "specversion": "1.0",
            "id": "shop:requests:1796475600",
            "source": "dormouse",
            "type": "dormouse.usage",
            "subject": "shop",
            "time": "2026-12-05T13:01:00Z",
            "datacontenttype": "application/json",
            "data": {
                "meter": "requests",
                "quantity": "5",
                "billable": "3",
                "start": "2026-12-05T13:00:00Z",
                "end": "2026-12-05T13:01:00Z",
            },
        });
        assert_eq!(first, expected);
        assert_eq!(events.lines().count(), 3);
        let expected = "\
id,database,meter,start,end,quantity,billable
shop:requests:1796475600,shop,requests,2026-12-05T13:00:00Z,2026-12-05T13:01:00Z,5,3
shop:store_byte_milliseconds:1796475600,shop,store_byte_milliseconds,2026-12-05T13:00:00Z,2026-12-05T13:01:00Z,340282366920938463463374607431768211455,
shop:unbilled_requests:1796475600,shop,unbilled_requests,2026-12-05T13:00:00Z,2026-12-05T13:01:00Z,2,
";
        assert_eq!(csv(&[window]), expected);
    }
}
