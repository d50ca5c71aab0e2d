//! The command line: parse, run one command, turn errors into an exit code.

mod args;
mod commands;
mod config;
mod exit;
#[cfg(test)]
mod guide;
mod interrupt;
mod keys;
#[cfg(feature = "torch")]
mod openmp;
#[cfg(feature = "torch")]
mod process_group;
mod progress;
mod sigbus;
mod terminal;

use std::io::Write;

use anyhow::Result;
use clap::Parser;

use args::{Cli, Command, FeaturesCommand};
use exit::{FAILURE, STOPPED, SUCCESS, USAGE};
use interrupt::Stopped;
#[cfg(feature = "torch")]
use process_group::ProcessGroup;
use terminal::{Log, has_colours, on_one_line, say, say_error};
use vqa_data::files::panic_means_damage;
#[cfg(feature = "torch")]
use vqa_model::memory::is_out_of_memory;

fn main() {
    let cli = Cli::try_parse().unwrap_or_else(|help_or_error| {
        let _ = help_or_error.print();
        let _ = std::io::stdout().flush();
        exit::at_once(if help_or_error.use_stderr() { USAGE } else { SUCCESS })
    });
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_writer(|| Log)
        .with_ansi(has_colours())
        .with_target(false)
        .without_time()
        // It would report to stderr that writing to stderr failed, and panic.
        .log_internal_errors(false)
        .init();
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        // Running out of memory is reported after the command, with the remedy; a damaged file is reported as an error.
        if !is_out_of_memory(message) && !panic_means_damage() {
            let place = panic.location().map(|location| format!(" at {location}")).unwrap_or_default();
            let first_line = message.lines().next().unwrap_or_default();
            say_error!("error: a bug in vqa{place}, please report it: {first_line}");
        }
    }));
    interrupt::handle();
    sigbus::handle();
    exit::at_once(exit_code(std::panic::catch_unwind(|| run(cli))));
}

/// The exit code after a command. Prints the command's error, if it failed.
fn exit_code(result: std::thread::Result<Result<()>>) -> u8 {
    match result {
        Ok(Ok(())) => SUCCESS,
        Ok(Err(error)) if error.is::<Stopped>() => {
            say!("{error}");
            STOPPED
        }
        Ok(Err(error)) => {
            say_error!("error: {}", on_one_line(&whole_message(&error)));
            FAILURE
        }
        Err(panic) => {
            let message = panic.downcast_ref::<String>().map_or("", String::as_str);
            if is_out_of_memory(message) {
                say_error!("error: out of memory: lower train.batch_size (or --batch-size), or the sizes in [model]");
            }
            FAILURE
        }
    }
}

/// The message of an error with its context, down to the first error of our own crates, since the message of that one
/// is complete.
fn whole_message(error: &anyhow::Error) -> String {
    let mut parts = Vec::new();
    for cause in error.chain() {
        parts.push(cause.to_string());
        let is_whole = cause.is::<vqa_data::Error>();
        #[cfg(feature = "torch")]
        let is_whole = is_whole
            || cause.is::<vqa_model::Error>()
            || cause.is::<vqa_train::Error>()
            || cause.is::<vqa_infer::Error>();
        if is_whole {
            break;
        }
    }
    parts.join(": ")
}

/// Runs a command that can be distributed over several processes.
#[cfg(feature = "torch")]
fn group(command: impl FnOnce(&ProcessGroup) -> Result<()>) -> Result<()> {
    let group = ProcessGroup::find()?;
    group.ended(command(&group))
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        #[cfg(feature = "torch")]
        Command::Demo(args) => commands::demo::run(&args),
        Command::Import(args) => commands::import::run(&args),
        Command::Synth(args) => commands::synth::run(&args),
        Command::Features(FeaturesCommand::Inspect(args)) => commands::features::inspect::run(&args),
        Command::Features(FeaturesCommand::Convert(args)) => commands::features::convert::run(&args),
        Command::Features(FeaturesCommand::Extract(args)) => commands::features::extract::run(&args),
        Command::Prepare(args) => commands::prepare::run(&args),
        #[cfg(feature = "torch")]
        Command::Train(args) => group(|group| commands::train::run(&args, group)),
        #[cfg(feature = "torch")]
        Command::Evaluate(args) => group(|group| commands::evaluate::run(&args, group)),
        #[cfg(feature = "torch")]
        Command::Predict(args) => group(|group| commands::predict::run(&args, group)),
        #[cfg(feature = "torch")]
        Command::Ask(args) => commands::ask::run(&args),
        #[cfg(feature = "torch")]
        Command::Visualize(args) => commands::visualize::run(&args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => commands::serve::run(&args),
        Command::Score(args) => commands::score::run(&args),
    }
}

#[cfg(not(feature = "torch"))]
fn is_out_of_memory(_: &str) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_message_is_said_once() {
        let missing = || vqa_data::Error::io("read", "q.json".as_ref())(std::io::ErrorKind::NotFound.into());
        let error = anyhow::Error::from(missing()).context("data.train");
        assert_eq!(whole_message(&error), "data.train: cannot read q.json: no such file or directory; check the path");
        // Errors of other crates are shown with all of their causes.
        let other = Err::<(), _>(std::io::Error::other("broken")).context("b").context("a").unwrap_err();
        assert_eq!(whole_message(&other), "a: b: broken");
        #[cfg(feature = "torch")]
        {
            let error = anyhow::Error::from(vqa_train::Error::from(vqa_model::Error::from(missing())));
            assert_eq!(whole_message(&error), missing().to_string());
        }
    }
}
