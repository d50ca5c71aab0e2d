//! CUDA graphs: work that is recorded once, and that a GPU then repeats by itself.
//!
//! tch has none of this, so libtorch's own `at::cuda::CUDAGraph` is called by the mangled names of its methods, as in
//! libtorch 2.11.0, the only version that tch accepts. If a name is not found, there are no graphs.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::Arc;

use libloading::Library;

use crate::feed::cuda::{Cuda, Status, StreamHandle};

/// Records work for a GPU. All of its graphs share memory, so no two may run at the same time: they are replayed one
/// after the other, and whatever is to be kept from one is copied before the next.
#[derive(Debug)]
pub struct CudaGraphs {
    cuda: Cuda,
    functions: Arc<Functions>,
    /// Recording is not allowed in the default stream.
    stream: Stream,
    memory: MemoryPool,
}

/// Recorded work.
#[derive(Debug)]
pub struct CudaGraph {
    cuda: Cuda,
    functions: Arc<Functions>,
    /// On the heap, since libtorch's random number generator keeps its address.
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

/// Memory for an `at::cuda::CUDAGraph`, which takes 104 bytes.
#[repr(C, align(16))]
#[derive(Debug)]
struct GraphObject([MaybeUninit<u8>; 512]);

/// The functions of libtorch and of the CUDA runtime. Those that are "C-unwind" can throw a C++ exception, but only if
/// CUDA fails: an exception unwinds through Rust's frames, and ends the program where Rust would catch it.
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

/// cudaStreamCaptureModeThreadLocal: other threads, such as the one that sends batches, are not restricted meanwhile.
const THREAD_LOCAL: c_int = 1;
/// cudaStreamCaptureStatusActive
const ACTIVE: c_int = 1;

impl Functions {
    #[allow(unsafe_code)]
    pub(super) fn load() -> Result<Functions, String> {
        if !cfg!(all(target_os = "linux", target_pointer_width = "64")) {
            return Err("it is known for Linux only how to call libtorch".to_owned());
        }
        // SAFETY: if there is a GPU, this part of libtorch is loaded already. Its initialisers are meant to be run.
        let library = unsafe { Library::new("libtorch_cuda.so") }.map_err(|error| error.to_string())?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the signatures of the CUDA runtime's functions have been the same since CUDA 10.1. For those
                // of libtorch, the mangled name gives the parameters, the headers of version 2.11.0 give the results,
                // and the Itanium C++ ABI passes trivially copyable classes as C passes structs.
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
        // The functions stay loaded as long as the process runs.
        std::mem::forget(library);
        Ok(functions)
    }
}

/// Returns the stream in which libtorch computes on the GPU with this index.
#[allow(unsafe_code)]
pub(super) fn current_stream(functions: &Functions, device: usize) -> StreamHandle {
    // SAFETY: the caller has used the GPU with this index; the second function reads from the address given.
    unsafe {
        let stream = (functions.get_current_stream)(device as i8);
        (functions.stream_handle)(&raw const stream)
    }
}

impl CudaGraphs {
    /// Prepares to record graphs for the GPU with this index.
    ///
    /// # Errors
    ///
    /// Says why graphs are not available.
    #[allow(unsafe_code)]
    pub fn new(device: usize) -> Result<CudaGraphs, String> {
        let cuda = Cuda::new(device)?;
        let functions = Arc::new(Functions::load()?);
        // An unusable GPU is detected here, where it doesn't throw an exception.
        cuda.free_memory()?;
        // SAFETY: the GPU with this index was just used. Neither function has other preconditions.
        let (stream, memory) =
            unsafe { ((functions.get_stream_from_pool)(false, device as i8), (functions.graph_pool_handle)()) };
        Ok(CudaGraphs { cuda, functions, stream, memory })
    }

    /// Records what `work` queues on the GPU, without running any of it. Memory that `work` allocates belongs to the
    /// graph; other tensors that it reads or writes must live as long as the graph. `work` must not wait for the GPU.
    ///
    /// # Errors
    ///
    /// When `work` panics or does something that cannot be recorded. Even then, the GPU has done nothing.
    #[allow(unsafe_code)]
    pub fn record(&self, work: impl FnOnce()) -> Result<CudaGraph, String> {
        let Functions { new_graph, capture_begin, capture_end, get_current_stream, set_current_stream, .. } =
            *self.functions;
        self.cuda.select()?;
        // SAFETY: the function has no preconditions.
        self.cuda.check(unsafe { (self.functions.device_synchronize)() })?;
        // SAFETY: the constructor gets memory of at least the size and the alignment of its class, and the object stays
        // in place until its destructor has run: `CudaGraph` sees to both. The current stream of this thread is a
        // different one only from here to the end of the recording. Recording begins in a stream that isn't the
        // default one and in which nothing is being recorded: `CudaGraphs` is used by one thread at a time.
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
        // SAFETY: an intact recording is in progress in the current stream, in which it began: `mend_recording` ensured
        // that.
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
                // A half-recorded graph may not be destroyed either.
                std::mem::forget(graph);
                Err(reason)
            }
        }
    }

    /// If the recording was aborted by something that cannot be recorded, begins an empty one in its place, since
    /// libtorch cannot end an aborted one. Returns whether it was aborted.
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
            // Both report the failure that is known already.
            (self.functions.stream_end_capture)(stream, &raw mut nothing);
            (self.functions.get_last_error)();
            self.cuda.check((self.functions.stream_begin_capture)(stream, THREAD_LOCAL))?;
        }
        Ok(true)
    }
}

impl CudaGraph {
    /// Queues the recorded work on the GPU, after everything that was queued before, with the next random numbers of
    /// libtorch's generator. Returns at once.
    #[allow(unsafe_code)]
    pub fn replay(&mut self) {
        // SAFETY: `record` returns only graphs whose recording is complete.
        unsafe { (self.functions.replay)(&raw mut *self.object) };
    }
}

impl Drop for CudaGraph {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // Queued work may need the graph's memory.
        let selected = self.cuda.select();
        // SAFETY: the first function has no preconditions. The object was constructed, and is no longer used.
        unsafe {
            if selected.is_ok() {
                (self.functions.device_synchronize)();
            }
            (self.functions.drop_graph)(&raw mut *self.object);
        }
    }
}

/// The message of a panic.
fn message(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    words.unwrap_or("it panicked").to_owned()
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    /// Without a GPU, there is a reason. With one, recorded work reads its input anew and draws new random numbers at
    /// each replay, and work that cannot be recorded breaks nothing.
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
