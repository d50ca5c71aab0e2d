//! What can go wrong while a network computes.

use tch::{Device, Kind, TchError, Tensor};

use crate::error::{Error, Result};
use crate::memory::is_out_of_memory;

/// Runs `f`, which is part of the computation of the network called `name`.
///
/// # Errors
///
/// [`Error::BackboneOutOfMemory`] if memory is full; otherwise libtorch's message without its call stack.
pub(super) fn computing<T>(name: &str, f: impl FnOnce() -> Result<T, TchError>) -> Result<T> {
    f().map_err(|error| failed(name, &error.to_string()))
}

/// Returns the error of a network for a message of libtorch's.
pub(super) fn failed(name: &str, message: &str) -> Error {
    if is_out_of_memory(message) {
        return Error::BackboneOutOfMemory { name: name.to_owned() };
    }
    Error::Backbone(format!("{name}: {}", without_call_stack(message)))
}

/// Returns the operator that is missing, if a message says that a TorchScript program cannot be loaded without it.
pub(super) fn unknown_operator(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("Unknown builtin op: ")?;
    Some(rest.lines().next()?.trim_end_matches('.'))
}

/// Returns the line of a libtorch message that says what is wrong. Above it may be a TorchScript traceback, below it
/// the C++ call stack.
fn without_call_stack(message: &str) -> &str {
    let lines = || message.lines().map(str::trim).filter(|line| !line.is_empty());
    let of_python = lines().rfind(|line| line.split(':').next().is_some_and(|word| word.ends_with("Error")));
    of_python.or(lines().next()).unwrap_or("libtorch failed without saying why")
}

/// Checks that pictures are [B, 3, H, W] float32 on this device.
pub(super) fn check_pictures(name: &str, pictures: &Tensor, device: Device) -> Result<()> {
    let size = pictures.size();
    if size.len() == 4
        && size[1] == 3
        && !size.contains(&0)
        && pictures.kind() == Kind::Float
        && pictures.device() == device
    {
        return Ok(());
    }
    Err(Error::Backbone(format!(
        "{name}: expected pictures [B, 3, H, W] of Float on {device:?}, not {size:?} of {:?} on {:?}",
        pictures.kind(),
        pictures.device()
    )))
}

/// Checks that a tensor has no NaN or infinite value. `what` names it in the error.
pub(super) fn check_finite(name: &str, what: &str, tensor: &Tensor) -> Result<()> {
    if computing(name, || tensor.f_isfinite()?.f_all()?.f_int64_value(&[]))? != 0 {
        return Ok(());
    }
    Err(Error::Backbone(format!(
        "{name}: {what} has NaN or infinite values: its weights are damaged, or its pictures are not standardised as \
         it expects (mean, deviation, scale)"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_message_the_line_that_says_what_is_wrong_is_kept() {
        let scripted = "Internal torch error: The following operation failed in the TorchScript \
            interpreter.\nTraceback of TorchScript (most recent call last):\n  File \"x.py\", line 3, in forward\n    \
            return x.view(7)\n ~~~~~~ <--- HERE\nRuntimeError: shape '[7]' is invalid for input of size 6\n";
        let Error::Backbone(message) = failed("model.pt", scripted) else { panic!() };
        assert_eq!(message, "model.pt: RuntimeError: shape '[7]' is invalid for input of size 6");
        let Error::Backbone(message) =
            failed("x", "Internal torch error: no kernel\nException raised from f at g.cpp:1\n")
        else {
            panic!()
        };
        assert_eq!(message, "x: Internal torch error: no kernel");
        let full = "CUDA out of memory. Tried to allocate 20.00 GiB.";
        assert!(matches!(failed("x", full), Error::BackboneOutOfMemory { .. }));
    }

    #[test]
    fn values_that_are_no_numbers_are_named() {
        let map = Tensor::from_slice(&[1.0f32, f32::NAN]);
        assert!(check_finite("net", "its map", &map).unwrap_err().to_string().starts_with("net: its map has NaN"));
        check_finite("net", "its map", &map.narrow(0, 0, 1)).unwrap();
        let wrong = Tensor::zeros([1, 4, 2, 2], (Kind::Float, Device::Cpu));
        let error = check_pictures("net", &wrong, Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("[1, 4, 2, 2]"), "{error}");
    }
}
