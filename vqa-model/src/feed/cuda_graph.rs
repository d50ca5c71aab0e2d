//! CUDA graphs: what a GPU was told once, it does again by itself.
//!
//! tch has none of this, so that libtorch's own `at::cuda::CUDAGraph` is called by the mangled names of its methods, as
//! in libtorch 2.11.0, the one version that tch accepts. Where a name is not found, there are no graphs.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::Arc;

use libloading::Library;

use crate::feed::cuda::{Cuda, Status, StreamHandle};

/// Records what a GPU is told to do. All its graphs share their memory, so that none may run beside another: they are
/// replayed one after the other, and what is to be kept of one is copied before the next.
#[derive(Debug)]
pub struct CudaGraphs {
    cuda: Cuda,
    functions: Arc<Functions>,
    /// Recording is not allowed in the default stream.
    stream: Stream,
    memory: MemoryPool,
}

/// Work that was recorded.
#[derive(Debug)]
pub struct CudaGraph {
    cuda: Cuda,
    functions: Arc<Functions>,
    /// On the heap, for libtorch's random number generator keeps its address.
    object: Box<GraphObject>,
}

/// `c10::cuda::CUDAStream`: a `c10::Stream`, which is a `c10::Device` of two bytes and an id. It is passed in two
/// registers.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Stream {
    device: [i8; 2],
    id: i64,
}

/// `c10::MempoolId_t`: a pair of integers, passed in two registers.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct MemoryPool {
    first: u64,
    second: u64,
}

/// Room for an `at::cuda::CUDAGraph`, which takes 104 bytes.
#[repr(C, align(16))]
#[derive(Debug)]
struct GraphObject([MaybeUninit<u8>; 512]);

/// Those that are "C-unwind" can throw a C++ exception, but only where CUDA fails: an exception goes through Rust's
/// frames, and ends the program where Rust would catch it.
#[derive(Debug)]
pub(super) struct Functions {
    new_graph: unsafe extern "C-unwind" fn(*mut GraphObject, bool),
    drop_graph: unsafe extern "C-unwind" fn(*mut GraphObject),
    capture_begin: unsafe extern "C-unwind" fn(*mut GraphObject, MemoryPool, c_int),
    capture_end: unsafe extern "C-unwind" fn(*mut GraphObject),
    replay: unsafe extern "C-unwind" fn(*mut GraphObject),
    graph_pool_handle: unsafe extern "C-unwind" fn() -> MemoryPool,
    get_stream_from_pool: unsafe extern "C-unwind" fn(bool, i8) -> Stream,
    get_current_stream: unsafe extern "C-unwind" fn(i8) -> Stream,
    set_current_stream: unsafe extern "C-unwind" fn(Stream),
    stream_handle: unsafe extern "C-unwind" fn(*const Stream) -> StreamHandle,
    device_synchronize: unsafe extern "C" fn() -> Status,
    stream_is_capturing: unsafe extern "C" fn(StreamHandle, *mut c_int) -> Status,
    stream_begin_capture: unsafe extern "C" fn(StreamHandle, c_int) -> Status,
    stream_end_capture: unsafe extern "C" fn(StreamHandle, *mut *mut c_void) -> Status,
    get_last_error: unsafe extern "C" fn() -> Status,
}

/// cudaStreamCaptureModeThreadLocal: other threads, as the one that sends batches, do what they like meanwhile.
const THREAD_LOCAL: c_int = 1;
/// cudaStreamCaptureStatusActive
const ACTIVE: c_int = 1;

impl Functions {
    #[allow(unsafe_code)]
    pub(super) fn load() -> Result<Functions, String> {
        if !cfg!(all(target_os = "linux", target_pointer_width = "64")) {
            return Err("it is known for Linux only how to call libtorch".to_owned());
        }
        // SAFETY: this part of libtorch is loaded already where there is a GPU. Its initialisers are made to run.
        let library = unsafe { Library::new("libtorch_cuda.so") }.map_err(|error| error.to_string())?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: for the CUDA runtime's functions, their signatures are the same since CUDA 10.1. For those of
                // libtorch, the mangled name tells the parameters; the results are as its headers of version 2.11.0
                // say, and the Itanium C++ ABI passes classes that can be copied bit by bit as C passes structs.
                *unsafe { library.get($name) }.map_err(|error| error.to_string())?
            };
        }
        let functions = Functions {
            new_graph: function!(b"_ZN2at4cuda9CUDAGraphC1Eb\0"),
            drop_graph: function!(b"_ZN2at4cuda9CUDAGraphD1Ev\0"),
            capture_begin: function!(b"_ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyE21cudaStreamCaptureMode\0"),
            capture_end: function!(b"_ZN2at4cuda9CUDAGraph11capture_endEv\0"),
            replay: function!(b"_ZN2at4cuda9CUDAGraph6replayEv\0"),
            graph_pool_handle: function!(b"_ZN2at4cuda17graph_pool_handleEv\0"),
            get_stream_from_pool: function!(b"_ZN3c104cuda17getStreamFromPoolEba\0"),
            get_current_stream: function!(b"_ZN3c104cuda20getCurrentCUDAStreamEa\0"),
            set_current_stream: function!(b"_ZN3c104cuda20setCurrentCUDAStreamENS0_10CUDAStreamE\0"),
            stream_handle: function!(b"_ZNK3c104cuda10CUDAStream6streamEv\0"),
            device_synchronize: function!(b"cudaDeviceSynchronize\0"),
            stream_is_capturing: function!(b"cudaStreamIsCapturing\0"),
            stream_begin_capture: function!(b"cudaStreamBeginCapture\0"),
            stream_end_capture: function!(b"cudaStreamEndCapture\0"),
            get_last_error: function!(b"cudaGetLastError\0"),
        };
        // The functions stay as long as the process.
        std::mem::forget(library);
        Ok(functions)
    }
}

/// The stream in which libtorch computes on the GPU of this number.
#[allow(unsafe_code)]
pub(super) fn current_stream(functions: &Functions, device: usize) -> StreamHandle {
    // SAFETY: the caller has used a GPU of this number; the second function reads from the address given.
    unsafe {
        let stream = (functions.get_current_stream)(device as i8);
        (functions.stream_handle)(&raw const stream)
    }
}

impl CudaGraphs {
    /// Graphs for the GPU of this number.
    ///
    /// # Errors
    ///
    /// Says why there are none.
    #[allow(unsafe_code)]
    pub fn new(device: usize) -> Result<CudaGraphs, String> {
        let cuda = Cuda::new(device)?;
        let functions = Arc::new(Functions::load()?);
        // A GPU that cannot be used is found here, where it is no exception.
        cuda.free_memory()?;
        // SAFETY: a GPU of this number was just used. Neither function has other conditions.
        let (stream, memory) =
            unsafe { ((functions.get_stream_from_pool)(false, device as i8), (functions.graph_pool_handle)()) };
        Ok(CudaGraphs { cuda, functions, stream, memory })
    }

    /// Records what `work` tells the GPU, which does none of it yet. All memory that `work` takes is the graph's own;
    /// other tensors that it reads or writes must be there as long as the graph. `work` must not wait for the GPU.
    ///
    /// # Errors
    ///
    /// When `work` panics or does something that cannot be recorded. The GPU has done nothing then either.
    #[allow(unsafe_code)]
    pub fn record(&self, work: impl FnOnce()) -> Result<CudaGraph, String> {
        let Functions { new_graph, capture_begin, capture_end, get_current_stream, set_current_stream, .. } =
            *self.functions;
        self.cuda.select()?;
        // SAFETY: has no conditions.
        self.cuda.check(unsafe { (self.functions.device_synchronize)() })?;
        // SAFETY: a constructor is given memory of at least the size and the alignment of its class, and the object
        // stays where it is until its destructor has run: `CudaGraph` sees to both. The current stream of this
        // thread is another one only from here to the end of the recording. Recording begins in a stream that is not
        // the default one and in which nothing is being recorded: `CudaGraphs` is used by one thread at a time.
        let (mut graph, before) = unsafe {
            let mut object = Box::new(GraphObject([MaybeUninit::uninit(); 512]));
            new_graph(&raw mut *object, false);
            let graph = CudaGraph { cuda: self.cuda.clone(), functions: self.functions.clone(), object };
            (graph, get_current_stream(self.stream.device[1]))
        };
        // SAFETY: as above.
        unsafe {
            set_current_stream(self.stream);
            capture_begin(&raw mut *graph.object, self.memory, THREAD_LOCAL);
        }
        let outcome = catch_unwind(AssertUnwindSafe(work)).map_err(|panic| message(&*panic));
        let was_broken = self.mend_recording();
        // SAFETY: a recording is in progress in the current stream, which is the one that it began in, and is intact:
        // `mend_recording` saw to that.
        unsafe {
            if was_broken.is_ok() {
                capture_end(&raw mut *graph.object);
            }
            set_current_stream(before);
        }
        match (outcome, was_broken) {
            (Ok(()), Ok(false)) => Ok(graph),
            (Err(reason), Ok(_)) => Err(reason),
            (Ok(()), Ok(true)) => Err("something in it cannot be recorded".to_owned()),
            (_, Err(reason)) => {
                // What is half-recorded may not be destroyed either.
                std::mem::forget(graph);
                Err(reason)
            }
        }
    }

    /// If the recording was broken off by something that cannot be recorded, begins an empty one in its place, for
    /// libtorch cannot end the broken one. Returns whether it was.
    #[allow(unsafe_code)]
    fn mend_recording(&self) -> Result<bool, String> {
        let mut status = 0;
        let mut nothing = null_mut();
        // SAFETY: the stream is libtorch's, which never destroys it; the functions write to the addresses given.
        unsafe {
            let stream = (self.functions.stream_handle)(&raw const self.stream);
            self.cuda.check((self.functions.stream_is_capturing)(stream, &raw mut status))?;
            if status == ACTIVE {
                return Ok(false);
            }
            // Both say again what is known.
            (self.functions.stream_end_capture)(stream, &raw mut nothing);
            (self.functions.get_last_error)();
            self.cuda.check((self.functions.stream_begin_capture)(stream, THREAD_LOCAL))?;
        }
        Ok(true)
    }
}

impl CudaGraph {
    /// Has the GPU do what was recorded, after all that was queued before, with the random numbers that libtorch's
    /// generator is to draw next. Returns at once.
    #[allow(unsafe_code)]
    pub fn replay(&mut self) {
        // SAFETY: a graph is given out only when it was recorded to its end.
        unsafe { (self.functions.replay)(&raw mut *self.object) };
    }
}

impl Drop for CudaGraph {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // What is queued may need its memory.
        let selected = self.cuda.select();
        // SAFETY: the first has no conditions. The object was constructed, and is not used any more.
        unsafe {
            if selected.is_ok() {
                (self.functions.device_synchronize)();
            }
            (self.functions.drop_graph)(&raw mut *self.object);
        }
    }
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    words.unwrap_or("it panicked").to_owned()
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    /// Where there is no GPU, there is a reason. Where there is one, what was recorded reads its input anew each time,
    /// draws new random numbers, and what cannot be recorded breaks nothing.
    #[test]
    fn what_was_recorded_is_done_again() {
        let graphs = match CudaGraphs::new(0) {
            Ok(graphs) => graphs,
            Err(reason) => {
                assert!(reason.contains("CUDA") || reason.contains("libtorch_cuda"), "{reason}");
                return;
            }
        };
        let zeros = || Tensor::zeros([1000], (Kind::Float, Device::Cuda(0)));
        let (mut input, mut output) = (zeros(), zeros());
        let waits = || {
            let _ = input.sum(Kind::Float).double_value(&[]);
        };
        assert!(graphs.record(waits).is_err());
        let mut graph = graphs.record(|| output.copy_(&((&input + 1.0).dropout(0.5, true)))).unwrap();
        let mut seen = Vec::new();
        for (value, seed) in [(1.0, 1), (4.0, 2), (1.0, 1)] {
            let _ = input.fill_(value);
            tch::manual_seed(seed);
            graph.replay();
            assert_eq!(output.max().double_value(&[]), 2.0 * (value + 1.0));
            seen.push(Vec::<f32>::try_from(output.ne(0.0).to_kind(Kind::Float)).unwrap());
        }
        assert!(seen[0] == seen[2] && seen[0] != seen[1]);
    }
}
