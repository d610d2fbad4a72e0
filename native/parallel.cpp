#include "parallel.h"

#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <system_error>
#include <thread>

namespace cachegen {
namespace {

constexpr std::chrono::microseconds kPatience{100};

// One call of run_together; it lives on its caller's stack.
struct Call {
  const std::function<void()>& work;
  size_t wanted;  // helpers that may still join
  std::atomic<size_t> running = 0;
  std::condition_variable ended{};
};

class Pool {
 public:
  void run(size_t helpers, const std::function<void()>& work) {
    Call call{.work = work, .wanted = helpers};
    publish(call);
    work();
    withdraw(call);
  }

 private:
  void publish(Call& call) {
    const std::lock_guard<std::mutex> guard(mutex_);
    calls_.push_back(&call);
    wanted_ += call.wanted;
    while (idle_ < wanted_ && helpers_ < kMaxThreads && start_helper()) {
    }
    for (size_t i = 0; i < call.wanted; i++) wake_.notify_one();
  }

  // Where the system gives no more threads, those that there are do all the work.
  bool start_helper() {
    try {
      std::thread([this] { help(); }).detach();
    } catch (const std::system_error&) {
      return false;
    }
    helpers_++;
    idle_++;
    return true;
  }

  void withdraw(Call& call) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (call.wanted) std::erase(calls_, &call);
    wanted_ -= call.wanted;
    lock.unlock();
    await_briefly(call);
    lock.lock();
    call.ended.wait(lock, [&] { return call.running == 0; });
  }

  // Helpers end at nearly the same time, and being woken takes longer than that.
  static void await_briefly(const Call& call) {
    const auto until = std::chrono::steady_clock::now() + kPatience;
    while (call.running && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  }

  void help() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return !calls_.empty(); });
      Call& call = *calls_.front();
      if (--call.wanted == 0) calls_.pop_front();
      wanted_--;
      idle_--;
      call.running++;
      lock.unlock();
      call.work();
      lock.lock();
      idle_++;
      if (--call.running == 0) call.ended.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Call*> calls_;  // that want helpers
  size_t wanted_ = 0;        // by all of them
  size_t helpers_ = 0;
  size_t idle_ = 0;
};

// Never destroyed: helpers wait in it until the process ends. A forked child has no helpers and
// makes a pool of its own.
std::atomic<Pool*> current_pool{nullptr};
std::atomic_flag fork_is_watched;

Pool& pool() {
  if (!fork_is_watched.test_and_set()) {
    pthread_atfork(nullptr, nullptr, [] { current_pool = nullptr; });
  }
  Pool* found = current_pool;
  if (found) return *found;
  Pool* made = new Pool;
  if (current_pool.compare_exchange_strong(found, made)) return *made;
  delete made;
  return *found;
}

}  // namespace

void run_together(size_t helpers, const std::function<void()>& work) {
  if (helpers == 0) {
    work();
  } else {
    pool().run(helpers, work);
  }
}

}  // namespace cachegen
