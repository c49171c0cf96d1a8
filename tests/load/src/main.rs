//! Measures a gateway that is compatible with wa-gateway under load: memory, CPU, latencies, throughput, disk, and whether
//! every message came through exactly once.
//!
//! `whatsapp-load --sessions N` is the driver. It starts the WhatsApp simulator as a process of its own (this program
//! again), and the gateway as a third, or measures one that runs already. `simulator`, `bare-http`, `bare-library`
//! and `crowd` are the other parts of a measurement, `bare` measures the library by itself, `table` makes one table of
//! several results, `--soak` is the long run.

use std::process::ExitCode;

mod arguments;
mod bare_http;
mod bare_library;
mod bench;
mod client;
mod crowd;
mod ledger;
mod phase;
mod phones;
mod proc;
mod program;
mod receiver;
mod report;
mod simulator;
mod soak;
mod storm;
mod table;

use arguments::Mode;

/// The driver asks little of its own process: the two cores are the gateway's and the simulator's too.
const THREADS: usize = 2;

fn main() -> ExitCode {
    let mode = match arguments::parse() {
        Ok(mode) => mode,
        Err(error) => {
            complain(&format!("{error:#}\n{}", arguments::USAGE));
            return ExitCode::from(64);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match mode {
            Mode::Help => {
                say(arguments::USAGE);
                Ok(true)
            }
            Mode::Bench(settings) => bench::run(settings).await,
            Mode::Simulator { tls, ports } => simulator::run(tls, ports).await,
            Mode::BareHttp { list } => bare_http::run(&list).await,
            Mode::Bare(settings) => crowd::run(settings).await,
            Mode::Crowd(crowd) => crowd::part(crowd).await,
            Mode::BareLibrary(settings) => bare_library::run(settings).await,
            Mode::Table { files } => table::run(&files),
        }
    });
    runtime.shutdown_background();
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(&format!("whatsapp-load: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the results of a program that is run by hand")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "how far a program that is run by hand has come")]
pub(crate) fn complain(line: &str) {
    eprintln!("{line}");
}
