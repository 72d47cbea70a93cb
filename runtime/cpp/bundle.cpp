// The bundle: members vouched for, then decoded, as runtime/bundle.py opens it. And the one way to say no.
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "foveola.hpp"

namespace foveola {
namespace {

constexpr std::size_t MAX_KEY = 16 * 1024;

// Names and words from a file may hold line breaks or terminal escapes; they are shown, not obeyed.
std::string printable(const std::string& text) {
  std::string shown;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool control = byte < 0x20 || byte == 0x7f ||
                         (byte == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa1);
    char hex[5];
    std::snprintf(hex, sizeof hex, "\\x%02x", byte);
    shown += control ? std::string(hex) : std::string(1, text[i]);
  }
  return shown;
}

std::string stem_with(const std::string& path, const std::string& suffix) {
  const std::size_t slash = path.find_last_of('/') + 1, dot = path.find_last_of('.');
  return (dot == std::string::npos || dot <= slash ? path : path.substr(0, dot)) + suffix;
}

// The pinned public key: argument, environment, then the desk's file beside the bundle.
Bytes find_key(const std::string& path, const std::optional<std::string>& key, const std::string& place) {
  const char* variable = std::getenv("FOVEOLA_KEY");
  const std::string beside = stem_with(path, ".pub");
  std::string source = key ? *key : variable ? variable : "";
  if (source.empty()) {
    struct stat facts{};
    if (stat(beside.c_str(), &facts) != 0)
      throw Error(
          place, "no key to check its signature with",
          "give the key, name its file in FOVEOLA_KEY, or put it at " + beside.substr(beside.find_last_of('/') + 1),
          Code::not_vouched);
    source = beside;
  }
  std::FILE* file = std::fopen(source.c_str(), "rb");
  if (!file)
    throw Error(source, std::string("the key cannot be read: ") + std::strerror(errno), "give the public key",
                Code::not_vouched);
  Bytes pem(MAX_KEY, '\0');
  pem.resize(std::fread(pem.data(), 1, pem.size(), file));
  std::fclose(file);
  return pem;
}

// The sha256 of what `sha256sum` prints for the members, sorted by name.
std::string digest_of(const Digests& digests, bool core) {
  std::string lines;
  for (const auto& [name, digest] : digests)
    if (!core || (name != "parity.json" && name != "report.html")) lines += digest + "  " + name + "\n";
  return sha256_hex(lines);
}

}  // namespace

Error::Error(const std::string& place, const std::string& fault, const std::string& mend, Code the_code)
    : std::runtime_error(printable(place + ": " + fault + (mend.empty() ? "" : "; " + mend))), code(the_code) {}

Bundle open_bundle(const std::string& path, const std::optional<std::string>& key) {
  Bundle bundle;
  bundle.members = read_members(path);
  const std::string place = path.substr(path.find_last_of('/') + 1);
  const Bytes pem = find_key(path, key, place);
  const auto signature = bundle.members.find("model.sig");
  if (signature == bundle.members.end())
    throw Error(place, "is not signed", "sign it with `foveola sign`", Code::not_vouched);
  const Digests digests = member_digests(bundle.members);
  verify_digests(digests, signature->second, pem, place);
  const char* mend = "get the bundle anew from its maker";
  if (!bundle.members.count("manifest.json")) throw Error(place, "no manifest.json", mend);
  const std::string where = place + ": manifest.json";
  bundle.manifest = decode_manifest(bundle.members["manifest.json"], where);
  for (const std::string& name : bundle.manifest.files)
    if (!bundle.members.count(name))
      throw Error(where, "an engine needs '" + name + "', which is not in the bundle", mend);
  bundle.digest = digest_of(digests, false);
  bundle.core_digest = digest_of(digests, true);
  return bundle;
}

Bytes read_file(const std::string& path, const std::string& place, std::size_t most) {
  struct stat facts{};
  const bool there = stat(path.c_str(), &facts) == 0;
  if (!there || !S_ISREG(facts.st_mode)) {
    const bool folder = there && S_ISDIR(facts.st_mode);
    throw Error(place, folder ? "is a folder" : "no such file", "give the path of an image file");
  }
  const auto size = static_cast<std::size_t>(facts.st_size);
  if (size > most)
    throw Error(place, std::to_string(size) + " bytes, more than the " + std::to_string(most) + " allowed");
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (!file)
    throw Error(place, std::string("cannot be read (") + std::strerror(errno) + ")",
                "check the path and its permissions");
  Bytes data(size, '\0');
  data.resize(std::fread(data.data(), 1, data.size(), file));
  std::fclose(file);
  return data;
}

}  // namespace foveola
