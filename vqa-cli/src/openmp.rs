//! How libtorch's threads wait for work between matrix products.
//!
//! By default libgomp lets each of them spin for milliseconds after a product, in the hope of another one. That slows
//! down every other process that needs the cores, and our own threads that do the work between the products. The policy
//! can only be set with `OMP_WAIT_POLICY`, which is read when the library is loaded, before `main`. So the program sets
//! it and restarts itself: before the libraries are initialised, which takes most of the time before `main`. If that
//! fails, the program is merely slower. A value that the user has set is kept.

use std::ffi::{c_char, c_int};

/// Called by the loader before it initialises any library, libc included.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
#[used]
// SAFETY: the section holds pointers to functions like this one, to which the GNU loader gives the arguments of `main`.
#[unsafe(link_section = ".preinit_array")]
static PREINIT: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = start_again_with_policy;

/// Restarts the program with the policy, unless the environment has one.
///
/// Nothing of libc may be used here but wrappers of system calls: no memory, no environment, no locale.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
extern "C" fn start_again_with_policy(_: c_int, arguments: *const *const c_char, environment: *const *const c_char) {
    const NAME: &[u8] = b"OMP_WAIT_POLICY=";
    const POLICY: &std::ffi::CStr = c"OMP_WAIT_POLICY=passive";
    /// With more variables than this the program stays as it is.
    const MOST: usize = 4096;
    let mut variables: [*const c_char; MOST] = [std::ptr::null(); MOST];
    let mut n = 0;
    loop {
        // SAFETY: the environment is an array of strings with a null pointer behind the last one.
        let variable = unsafe { *environment.add(n) };
        if variable.is_null() {
            break;
        }
        // SAFETY: a string that ends with 0, where the comparison stops, for the name has none.
        let is_set = (0..NAME.len()).all(|i| unsafe { *variable.add(i) } as u8 == NAME[i]);
        if is_set || n + 2 >= MOST {
            return;
        }
        variables[n] = variable;
        n += 1;
    }
    variables[n] = POLICY.as_ptr();
    // SAFETY: a number that the system gave the program. It is 0 where the loader itself was started, with the program
    // as its argument.
    if unsafe { libc::getauxval(libc::AT_BASE) } == 0 {
        return;
    }
    // SAFETY: the path under which the system started the program, a string that stays; null where it is not known.
    let path = unsafe { libc::getauxval(libc::AT_EXECFN) } as *const c_char;
    if !path.is_null() {
        // SAFETY: arrays of strings with a null pointer at the end. It returns only when it fails.
        unsafe { libc::execve(path, arguments, variables.as_ptr()) };
    }
}
