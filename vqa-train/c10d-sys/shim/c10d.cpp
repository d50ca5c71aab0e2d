// A C interface to libtorch's c10d. No function throws: those that can fail return null, false or -1, after which
// c10d_error returns the reason to the same thread.

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <chrono>
#include <exception>
#include <string>
#include <vector>

namespace {

thread_local std::string last_error;
thread_local std::vector<uint8_t> last_value;

template <typename Result, typename Action>
Result guarded(Result on_failure, Action action) {
  try {
    return action();
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "an exception that says nothing";
  }
  return on_failure;
}

}  // namespace

struct Store {
  c10::intrusive_ptr<c10d::Store> store;
};

struct Work {
  c10::intrusive_ptr<c10d::Work> work;
};

struct Group {
  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo;
};

extern "C" {

const char* c10d_error() { return last_error.c_str(); }

// All keys in the store are prefixed with `prefix`.
Store* c10d_store_connect(const char* host, uint16_t port, bool serve, const char* prefix, int64_t timeout_ms) {
  return guarded<Store*>(nullptr, [&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = serve;
    options.waitWorkers = false;
    options.timeout = std::chrono::milliseconds(timeout_ms);
    auto tcp = c10::make_intrusive<c10d::TCPStore>(host, options);
    return new Store{c10::make_intrusive<c10d::PrefixStore>(prefix, tcp)};
  });
}

bool c10d_store_set(Store* store, const char* key, const uint8_t* value, size_t len) {
  return guarded(false, [&] {
    store->store->set(key, std::vector<uint8_t>(value, value + len));
    return true;
  });
}

// Returns 1 if there is a value, which lives until the thread's next call; 0 if there is none; -1 on failure.
int c10d_store_get(Store* store, const char* key, const uint8_t** value, size_t* len) {
  return guarded(-1, [&] {
    if (!store->store->check({key})) return 0;
    last_value = store->store->get(key);
    *value = last_value.data();
    *len = last_value.size();
    return 1;
  });
}

bool c10d_store_add(Store* store, const char* key, int64_t n, int64_t* sum) {
  return guarded(false, [&] {
    *sum = store->store->add(key, n);
    return true;
  });
}

void c10d_store_free(Store* store) { delete store; }

// `interface` is the name of a network interface. If it is empty, `address` is an address of this machine.
Group* c10d_group_new(Store* store, int rank, int size, const char* interface, const char* address, int64_t timeout_ms) {
  return guarded<Group*>(nullptr, [&] {
    auto options = c10d::ProcessGroupGloo::Options::create(std::chrono::milliseconds(timeout_ms));
    options->devices.push_back(
        *interface ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                   : c10d::ProcessGroupGloo::createDeviceForHostname(address));
    return new Group{c10::make_intrusive<c10d::ProcessGroupGloo>(store->store, rank, size, options)};
  });
}

// The tensor's memory belongs to the work until c10d_work_wait has returned.
Work* c10d_group_start_all_reduce(Group* group, at::Tensor* tensor) {
  return guarded<Work*>(nullptr, [&] {
    std::vector<at::Tensor> tensors{*tensor};
    return new Work{group->gloo->allreduce(tensors)};
  });
}

bool c10d_work_wait(Work* work) {
  return guarded(false, [&] { return work->work->wait(); });
}

void c10d_work_free(Work* work) {
  guarded(false, [&] {
    delete work;
    return true;
  });
}

bool c10d_group_broadcast(Group* group, at::Tensor* tensor, int root) {
  return guarded(false, [&] {
    std::vector<at::Tensor> tensors{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    return group->gloo->broadcast(tensors, options)->wait();
  });
}

void c10d_group_free(Group* group) {
  guarded(false, [&] {
    delete group;
    return true;
  });
}

}  // extern "C"
