//! A short siege: see `dormouse_client_tests::siege`. `cargo xtask siege` runs one of any length.

use dormouse_client_tests::siege::{self, Settings};

/// Latencies are printed and not judged, since other tests run at the same time. The loss window is wide for the same
/// reason: a server that gets no time to write its log is right to refuse writes. The log's backlog is bounded all the
/// same, and so is the memory.
#[test]
fn the_server_survives_every_kind_of_tenant() {
    // A build without optimisations does a tenth of the work.
    let elements = if cfg!(debug_assertions) { 50_000 } else { 500_000 };
    let settings = Settings {
        seconds: 16,
        tenants: 38,
        memory_mib: 512,
        workers: 2,
        loss_window: "30s".into(),
        elements,
        seed: 1,
        is_strict: false,
        only: None,
    };
    let report = siege::run(&settings).expect("the server starts");
    println!("{report}");
    assert!(report.failures.is_empty(), "{report}");
    assert!(report.beside_noise.count() > 0);
}
