// Numbered jobs on a few threads, the caller's own among them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace cachegen {

// Runs jobs 0 to count - 1; every thread runs its own by the function that make_job() gives it. A
// job that returns false stops the start of others. Rethrows the first exception of a job once all
// threads have ended. A thread takes runs of neighbouring jobs, since neighbours write to the same
// cache lines; the runs shrink towards the end, so that all threads end together.
template <typename MakeJob>
void run_jobs(size_t count, size_t threads, const MakeJob& make_job) {
  constexpr size_t kMaxThreads = 256;
  const size_t wanted = std::max<size_t>(1, std::min({threads, count, kMaxThreads}));
  std::atomic<size_t> next{0};
  std::atomic<bool> stopped{false};
  std::exception_ptr error;
  std::mutex error_lock;
  const auto work = [&] {
    try {
      auto job = make_job();
      size_t first = next;
      while (!stopped && first < count) {
        const size_t end = first + std::max<size_t>(1, (count - first) / (2 * wanted));
        if (!next.compare_exchange_weak(first, end)) continue;
        for (; !stopped && first < end; ++first) {
          if (!job(first)) stopped = true;
        }
        first = next;
      }
    } catch (...) {
      const std::lock_guard<std::mutex> guard(error_lock);
      if (!error) error = std::current_exception();
      stopped = true;
    }
  };
  std::vector<std::thread> helpers;
  helpers.reserve(wanted);
  try {
    while (helpers.size() + 1 < wanted) helpers.emplace_back(work);
  } catch (const std::system_error&) {
    // The system gives no more threads; those that there are do all the work.
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace cachegen
