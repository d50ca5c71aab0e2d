//! Makes libtorch's threads wait passively for work between matrix products.
//!
//! By default, libgomp lets each thread spin for milliseconds after a product, in case another follows. That slows down
//! every other process that needs the cores, and our own threads that work between the products. The policy can only be
//! set with `OMP_WAIT_POLICY`, which is read when the library is loaded, before `main`. So the program sets the
//! variable and restarts itself. It does so before the libraries are initialised, since initialising them takes most of
//! the time before `main`. If the restart fails, the program is merely slower. A value that the user has set is kept.

use std::ffi::{c_char, c_int};

/// Called by the loader before it initialises any library, libc included.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
#[used]
// SAFETY: the section holds pointers to functions like this one, which the GNU loader calls with the arguments of
// `main`.
#[unsafe(link_section = ".preinit_array")]
static PREINIT: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = start_again_with_policy;

/// Restarts the program with the policy, unless the environment already sets one.
///
/// libc is not initialised yet, so only its system call wrappers may be used here: no allocation, no environment, no
/// locale.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
extern "C" fn start_again_with_policy(_: c_int, arguments: *const *const c_char, environment: *const *const c_char) {
    const NAME: &[u8] = b"OMP_WAIT_POLICY=";
    const POLICY: &std::ffi::CStr = c"OMP_WAIT_POLICY=passive";
    /// With more variables than this, the program is not restarted.
    const MOST: usize = 4096;
    let mut variables: [*const c_char; MOST] = [std::ptr::null(); MOST];
    let mut n = 0;
    loop {
        // SAFETY: the environment is an array of strings, terminated by a null pointer.
        let variable = unsafe { *environment.add(n) };
        if variable.is_null() {
            break;
        }
        // SAFETY: the string is null-terminated, and the comparison stops there, since the name contains no null byte.
        let is_set = (0..NAME.len()).all(|i| unsafe { *variable.add(i) } as u8 == NAME[i]);
        if is_set || n + 2 >= MOST {
            return;
        }
        variables[n] = variable;
        n += 1;
    }
    variables[n] = POLICY.as_ptr();
    // SAFETY: this only reads a number that the system gave the program. It is 0 if the loader itself was started, with
    // the program as its argument.
    if unsafe { libc::getauxval(libc::AT_BASE) } == 0 {
        return;
    }
    // SAFETY: this is the path by which the system started the program, a string that is never freed; null if it is
    // unknown.
    let path = unsafe { libc::getauxval(libc::AT_EXECFN) } as *const c_char;
    if !path.is_null() {
        // SAFETY: both are arrays of strings, terminated by a null pointer. The call returns only if it fails.
        unsafe { libc::execve(path, arguments, variables.as_ptr()) };
    }
}
