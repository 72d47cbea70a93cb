// See foveola.h. Every function is a door: nothing is thrown past it.
#include <cstring>
#include <mutex>
#include <new>

#include "foveola.h"
#include "foveola.hpp"

struct foveola_handle {
  foveola::Predictor predictor;
  std::mutex lock;
  explicit foveola_handle(foveola::Bundle bundle) : predictor(std::move(bundle)) {}
};

namespace {

thread_local std::string last_error;

template <class Work>
int at_the_door(Work work) {
  try {
    last_error.clear();
    return work();
  } catch (const foveola::Error& error) {
    last_error = error.what();
    return static_cast<int>(error.code);
  } catch (const std::bad_alloc&) {
    last_error = "memory: there is not enough";
  } catch (const std::exception& error) {
    last_error = error.what();
  }
  return static_cast<int>(foveola::Code::refused);
}

int hand_over(const std::string& text, char* buffer, std::size_t capacity, std::size_t* needed) {
  if (needed) *needed = text.size() + 1;
  if (!buffer || capacity <= text.size()) {
    last_error = "buffer: " + std::to_string(text.size() + 1) + " bytes are needed";
    return FOVEOLA_BUFFER;
  }
  std::memcpy(buffer, text.c_str(), text.size() + 1);
  return 0;
}

int no_handle() { throw foveola::Error("handle", "there is none", "open a bundle", foveola::Code::usage); }

}  // namespace

extern "C" {

int foveola_open(const char* bundle, const char* key, foveola_handle** handle) {
  return at_the_door([&] {
    if (!bundle || !handle) return no_handle();
    *handle = nullptr;
    *handle = new foveola_handle(foveola::open_bundle(bundle, key ? std::optional<std::string>(key) : std::nullopt));
    return 0;
  });
}

int foveola_infer(foveola_handle* handle, const void* image, size_t size, char* json, size_t capacity, size_t* needed) {
  return at_the_door([&] {
    if (!handle || (!image && size)) return no_handle();
    const std::lock_guard<std::mutex> guard(handle->lock);
    const foveola::Bytes data(static_cast<const char*>(image), size);
    return hand_over(foveola::prediction_json(handle->predictor.predict(data, "image")), json, capacity, needed);
  });
}

int foveola_selftest(foveola_handle* handle, char* json, size_t capacity, size_t* needed) {
  return at_the_door([&] {
    if (!handle) return no_handle();
    const std::lock_guard<std::mutex> guard(handle->lock);
    const foveola::SelfTest test = foveola::self_test(handle->predictor);
    const int code = hand_over(test.json, json, capacity, needed);
    return code ? code : static_cast<int>(test.ok ? foveola::Code::done : foveola::Code::refused);
  });
}

const char* foveola_last_error(void) { return last_error.c_str(); }

void foveola_close(foveola_handle* handle) { delete handle; }

}  // extern "C"
