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
// cache lines.
template <typename MakeJob>
void run_jobs(size_t count, size_t threads, const MakeJob& make_job) {
  constexpr size_t kMaxThreads = 256;
  constexpr size_t kRunsPerThread = 4;
  const size_t wanted = std::max<size_t>(1, std::min({threads, count, kMaxThreads}));
  const size_t run = std::max<size_t>(1, count / (wanted * kRunsPerThread));
  std::atomic<size_t> next{0};
  std::atomic<bool> stopped{false};
  std::exception_ptr error;
  std::mutex error_lock;
  const auto work = [&] {
    try {
      auto job = make_job();
      for (size_t first; !stopped && (first = next.fetch_add(run)) < count;) {
        const size_t end = std::min(first + run, count);
        for (size_t i = first; !stopped && i < end; ++i) {
          if (!job(i)) stopped = true;
        }
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
