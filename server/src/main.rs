//! The binary: configures, builds, waits, drains.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use dormouse::cli::{Invocation, version};
use dormouse::server::{Failure, Server};
use dormouse_importer::output::{print_error, print_line};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let options = match Invocation::from_process() {
        Invocation::Serve(options) => options,
        Invocation::Tool(tool) => return tool.run(),
        Invocation::Version => {
            return match print_line(&version()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) => {
                    print_error(&format!("dormouse: {failure}"));
                    ExitCode::FAILURE
                }
            };
        }
    };
    let logging = dormouse::logging::start(options.log_format, &options.log_level);
    let exporter = logging.map_err(Failure::Other);
    match exporter.and_then(|_exporter| Server::start(*options)?.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            print_error(&format!("dormouse: {failure}"));
            failure.exit_code().into()
        }
    }
}
