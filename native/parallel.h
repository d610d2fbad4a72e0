// Numbered jobs on a few threads, the caller's own among them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>

namespace cachegen {

constexpr size_t kMaxThreads = 256;

// Runs `work`, which must not throw, on this thread and on up to `helpers` others that are free
// before it ends here; returns when it has ended everywhere. Helpers are kept from call to call,
// and stay on the cores that were allowed when they were first needed.
void run_together(size_t helpers, const std::function<void()>& work);

// Makes a limit no more than this.
inline void lower(std::atomic<size_t>& limit, size_t to) {
  size_t found = limit;
  while (to < found && !limit.compare_exchange_weak(found, to)) {
  }
}

// Runs jobs 0 to count - 1; every thread runs its own by the function that make_job() gives it. Of
// jobs behind one that returns false no more start; those before it all run unless one throws, so
// that which one fails first does not depend on the threads. Rethrows the first exception of a job
// once all threads have ended. A thread takes runs of neighbouring jobs, since neighbours write to
// the same cache lines; the runs shrink towards the end, so that all threads end together.
template <typename MakeJob>
void run_jobs(size_t count, size_t threads, const MakeJob& make_job) {
  const size_t wanted = std::max<size_t>(1, std::min({threads, count, kMaxThreads}));
  std::atomic<size_t> next{0};
  std::atomic<size_t> stop{count};
  std::exception_ptr error;
  std::mutex error_lock;
  const auto work = [&] {
    try {
      auto job = make_job();
      size_t first = next;
      while (first < stop) {
        const size_t end = first + std::max<size_t>(1, (count - first) / (2 * wanted));
        if (!next.compare_exchange_weak(first, end)) continue;
        for (; first < end && first < stop; ++first) {
          if (!job(first)) lower(stop, first);
        }
        first = next;
      }
    } catch (...) {
      const std::lock_guard<std::mutex> guard(error_lock);
      if (!error) error = std::current_exception();
      stop = 0;
    }
  };
  run_together(wanted - 1, work);
  if (error) std::rethrow_exception(error);
}

}  // namespace cachegen
