//! `completions`: what a shell needs to complete commands and options.

use clap::{Command, CommandFactory as _};
use clap_complete::{Shell, generate};

use super::Arguments;
use super::output::say;
use crate::run::ExitClass;

/// Prints the script of a shell.
pub(super) fn completions(shell: Shell) -> ExitClass {
    say(script(shell, &mut Arguments::command()));
    ExitClass::Ok
}

fn script(shell: Shell, command: &mut Command) -> String {
    let mut bytes = Vec::new();
    generate(shell, command, "larder-loader", &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_shell_gets_every_command() {
        for shell in Shell::value_variants() {
            let script = script(*shell, &mut Arguments::command());
            for command in Arguments::command().get_subcommands() {
                let is_there = script.contains(command.get_name());
                assert!(is_there || command.is_hide_set(), "{shell} does not know {}", command.get_name());
            }
        }
    }
}
