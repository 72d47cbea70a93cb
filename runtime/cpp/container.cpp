// The canonical ZIP around a bundle's members, as runtime/container.py reads it.
//
// Law: each header is built anew from what is free in it (name, length, checksum, place) and the file's must be equal
// to it; every count and length is held against the file's size and the limits before anything is read or allocated.
#include <sys/stat.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "foveola.hpp"

namespace foveola {
namespace {

constexpr std::uint64_t MIB = 1024 * 1024;
constexpr std::uint64_t MAX_BUNDLE = 512 * MIB, MAX_MEMBER = 256 * MIB;
constexpr std::size_t LOCAL = 30, CENTRAL = 46, END = 22, LONGEST_NAME = 255;
const char* const MEND = "get the bundle anew from its maker";

// In the order in which they stand in the file.
const std::pair<const char*, std::uint64_t> TABLE[] = {
    {"manifest.json", 1 * MIB},   {"model.onnx", 256 * MIB},  {"openvino.xml", 16 * MIB}, {"openvino.bin", 256 * MIB},
    {"tensorrt.onnx", 256 * MIB}, {"tensorrt.json", 1 * MIB}, {"golden.npz", 64 * MIB},   {"sbom.cdx.json", 4 * MIB},
    {"seen.bin", 16 * MIB},       {"parity.json", 32 * MIB},  {"report.html", 64 * MIB},  {"model.sig", 64 * 1024},
};
constexpr std::size_t COUNT = sizeof TABLE / sizeof *TABLE;

Error refusal(const std::string& place, const std::string& fault) { return Error(place, fault, MEND); }

std::uint32_t number(const Bytes& data, std::size_t at, std::size_t size) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < size; ++i)
    value |= static_cast<std::uint32_t>(static_cast<unsigned char>(data[at + i])) << (8 * i);
  return value;
}

void put(Bytes& data, std::uint64_t value, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) data.push_back(static_cast<char>(value >> (8 * i) & 0xff));
}

struct Entry {
  std::size_t kind;  // place in the table
  std::uint32_t size, crc, offset;
  std::string name() const { return TABLE[kind].first; }
  std::uint64_t end() const { return std::uint64_t{offset} + LOCAL + name().size() + size; }

  Bytes local() const {
    Bytes header("PK\3\4", 4);
    for (std::uint64_t field : {20, 0, 0, 0, 33})
      put(header, field, 2);  // version, flags, method, time, 1 January 1980
    free_fields(header);
    put(header, 0, 2);
    return header + name();
  }
  Bytes central() const {
    Bytes header("PK\1\2", 4);
    for (std::uint64_t field : {3 << 8 | 20, 20, 0, 0, 0, 33}) put(header, field, 2);
    free_fields(header);
    for (int i = 0; i < 4; ++i) put(header, 0, 2);
    put(header, std::uint64_t{0100644} << 16, 4);
    put(header, offset, 4);
    return header + name();
  }

 private:
  void free_fields(Bytes& header) const {
    put(header, crc, 4);
    put(header, size, 4);
    put(header, size, 4);
    put(header, name().size(), 2);
  }
};

std::string lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

// As Python's ascii(): for names of members, which are shorter than 256 bytes.
std::string quoted(const Bytes& raw) {
  std::string text = "'";
  for (char c : raw) {
    const auto byte = static_cast<unsigned char>(c);
    char hex[5];
    std::snprintf(hex, sizeof hex, "\\x%02x", byte);
    text += byte < 0x20 || byte > 0x7e ? std::string(hex)
            : c == '\\' || c == '\''   ? std::string("\\") + c
                                       : Bytes(1, c);
  }
  return text + "'";
}

std::size_t known(const Bytes& raw, const Entry* before, const std::string& place) {
  const auto find = [](const std::string& name) {
    return static_cast<std::size_t>(
        std::find_if(TABLE, TABLE + COUNT, [&](const auto& row) { return name == row.first; }) - TABLE);
  };
  const std::size_t kind = find(raw);
  if (kind == COUNT) {
    const bool twin = find(lower(raw)) != COUNT;
    throw refusal(place, quoted(raw) + (twin ? " differs from " + lower(raw) + " by its case only"
                                             : std::string(" is no member of a bundle")));
  }
  if (before && kind <= before->kind)
    throw refusal(place + ": " + raw, kind == before->kind ? "stands twice" : "stands twice or out of order");
  return kind;
}

// Say in words why a directory entry is not canonical; the refusal itself does not rest on this list.
std::string departure(const Bytes& directory) {
  const std::uint32_t flags = number(directory, 8, 2);
  char word[32];
  std::snprintf(word, sizeof word, "flags 0x%04x are set", flags);
  if (flags & 1) return "it is encrypted";
  if (flags & 8) return "its length comes after it (data descriptor)";
  if (flags) return word;
  if (number(directory, 10, 2)) return "it is compressed; members of a bundle are stored";
  if (number(directory, 20, 4) != number(directory, 24, 4)) return "it says two different lengths";
  if (number(directory, 30, 2)) return "it has an extra field";
  if (number(directory, 32, 2)) return "it has a comment";
  return "its directory entry is not canonical";
}

class File {
 public:
  File(const std::string& path, std::string place) : file_(std::fopen(path.c_str(), "rb")), place_(std::move(place)) {
    if (!file_)
      throw Error(path, std::string("cannot be read: ") + std::strerror(errno), "check the path and its rights");
  }
  ~File() { std::fclose(file_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  std::uint64_t size() {
    std::fseek(file_, 0, SEEK_END);
    const long end = std::ftell(file_);
    if (end < 0) throw Error(place_, "cannot be read", "check the path and its rights");
    return static_cast<std::uint64_t>(end);
  }
  Bytes read(std::uint64_t offset, std::uint64_t size, const std::string& where) {
    Bytes data(size, '\0');
    std::fseek(file_, static_cast<long>(offset), SEEK_SET);
    const std::size_t found = std::fread(data.data(), 1, data.size(), file_);
    if (found != data.size()) throw refusal(where, "ends " + std::to_string(size - found) + " bytes early");
    return data;
  }

 private:
  std::FILE* file_;
  std::string place_;
};

Entry next_entry(const Bytes& directory, const Entry* before, const std::string& place) {
  if (directory.size() < CENTRAL) throw refusal(place, "its directory ends within an entry");
  const std::size_t kind = known(directory.substr(CENTRAL, number(directory, 28, 2)), before, place);
  const Entry entry{kind, number(directory, 24, 4), number(directory, 16, 4), number(directory, 42, 4)};
  const std::string where = place + ": " + entry.name();
  const Bytes wanted = entry.central();
  if (directory.compare(0, wanted.size(), wanted) != 0) throw refusal(where, departure(directory));
  const std::uint64_t most = std::min(TABLE[kind].second, MAX_MEMBER);
  if (entry.size > most)
    throw refusal(where, std::to_string(entry.size) + " bytes; at most " + std::to_string(most) + " are read");
  if (entry.offset != (before ? before->end() : 0))
    throw refusal(where, "does not begin where the member before it ends");
  return entry;
}

std::vector<Entry> read_directory(File& file, std::uint64_t size, const std::string& place) {
  if (size < END) throw refusal(place, std::to_string(size) + " bytes are too few for a bundle; it is truncated");
  const Bytes end = file.read(size - END, END, place);
  if (end.compare(0, 4, Bytes("PK\5\6", 4)) != 0 || number(end, 20, 2))
    throw refusal(place, "does not end as a bundle ends: truncated, or with a comment or junk after it");
  const std::uint32_t count = number(end, 10, 2), length = number(end, 12, 4), start = number(end, 16, 4);
  if (number(end, 4, 2) || number(end, 6, 2) || number(end, 8, 2) != count)
    throw refusal(place, "says that it has several volumes");
  if (count == 0 || count > 2 * COUNT)
    throw refusal(place, std::to_string(count) + " members; 1 to " + std::to_string(2 * COUNT) + " are read");
  if (length > count * (CENTRAL + LONGEST_NAME) || std::uint64_t{start} + length + END != size)
    throw refusal(place, "its directory does not fill the space between the members and the end");
  Bytes directory = file.read(start, length, place);
  std::vector<Entry> entries;
  for (std::uint32_t i = 0; i < count; ++i) {
    entries.push_back(next_entry(directory, entries.empty() ? nullptr : &entries.back(), place));
    directory.erase(0, entries.back().central().size());
  }
  if (!directory.empty() || entries.back().end() != start)
    throw refusal(place, "something stands between its members and the end");
  return entries;
}

}  // namespace

Members read_members(const std::string& path) {
  struct stat facts{};
  const bool there = stat(path.c_str(), &facts) == 0;
  if (!there || !S_ISREG(facts.st_mode))  // to open a pipe would be to wait for ever
    throw Error(path, there ? "is not a file" : "is not there", "give the path of a .foveola file");
  const std::string place = path.substr(path.find_last_of('/') + 1);
  File file(path, place);
  const std::uint64_t size = file.size();
  if (size > MAX_BUNDLE)
    throw refusal(place, std::to_string(size) + " bytes; at most " + std::to_string(MAX_BUNDLE) + " are read");
  Members members;
  for (const Entry& entry : read_directory(file, size, place)) {
    const std::string where = place + ": " + entry.name();
    if (file.read(entry.offset, LOCAL + entry.name().size(), where) != entry.local())
      throw refusal(where, "its own header is not the one that the directory promises");
    Bytes data = file.read(entry.end() - entry.size, entry.size, where);
    if (crc32_z(0, reinterpret_cast<const Bytef*>(data.data()), data.size()) != entry.crc)
      throw Error(where, "its content was changed after the bundle was made", MEND, Code::not_vouched);
    members.emplace(entry.name(), std::move(data));
  }
  return members;
}

}  // namespace foveola
