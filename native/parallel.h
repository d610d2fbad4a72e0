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

// Runs jobs 0 to count - 1, started in that order; every thread runs its own by the function that
// make_job() gives it. A job that returns false stops the start of others. Rethrows the first
// exception of a job once all threads have ended.
template <typename MakeJob>
void run_jobs(size_t count, size_t threads, const MakeJob& make_job) {
  constexpr size_t kMaxThreads = 256;
  std::atomic<size_t> next{0};
  std::atomic<bool> stopped{false};
  std::exception_ptr error;
  std::mutex error_lock;
  const auto work = [&] {
    try {
      auto job = make_job();
      for (size_t i; !stopped && (i = next++) < count;) {
        if (!job(i)) stopped = true;
      }
    } catch (...) {
      const std::lock_guard<std::mutex> guard(error_lock);
      if (!error) error = std::current_exception();
      stopped = true;
    }
  };
  std::vector<std::thread> helpers;
  const size_t wanted = std::min({threads, count, kMaxThreads});
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
