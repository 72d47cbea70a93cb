// The golden vectors: golden.npz, a ZIP of stored .npy arrays (NEP 1, version 1.0), as runtime/golden.py writes it.
//
// Law: the signature has held before this file is looked into; all the same every length is checked, and anything
// compressed or of another type than expected is refused.
#include <algorithm>
#include <cstring>

#include "foveola.hpp"

namespace foveola {
namespace {

struct Array {
  std::string type;
  std::vector<std::int64_t> shape;
  Bytes data;
};
using Arrays = std::map<std::string, Array>;

Error broken(const std::string& why) {
  return Error("golden.npz", "cannot be read (" + why + ")", "make the bundle anew");
}

std::uint64_t number(const Bytes& data, std::size_t at, std::size_t size) {
  if (at > data.size() || data.size() - at < size) throw broken("it ends early");
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < size; ++i)
    value |= static_cast<std::uint64_t>(static_cast<unsigned char>(data[at + i])) << (8 * i);
  return value;
}

Bytes part(const Bytes& data, std::size_t at, std::size_t size) {
  if (at > data.size() || data.size() - at < size) throw broken("it ends early");
  return data.substr(at, size);
}

// What stands after `'name': ` in the header, up to one of the letters.
std::string after(const std::string& header, const std::string& name, const char* end) {
  const std::size_t start = header.find("'" + name + "': ");
  if (start == std::string::npos) throw broken("an array without " + name);
  const std::size_t from = start + name.size() + 4, to = header.find_first_of(end, from);
  if (to == std::string::npos) throw broken("an array without " + name);
  return header.substr(from, to - from);
}

Array read_array(const Bytes& npy) {
  if (part(npy, 0, 8) != Bytes("\x93NUMPY\1\0", 8)) throw broken("not an array");
  const auto length = static_cast<std::size_t>(number(npy, 8, 2));
  const std::string header = part(npy, 10, length);
  Array array;
  array.type = after(header, "descr", ",");
  const std::size_t item = array.type == "'|u1'" ? 1 : array.type == "'<f4'" ? 4 : 0;
  if (item == 0 || after(header, "fortran_order", ",") != "False") throw broken("an array of another type");
  const std::string shape = after(header, "shape", ")") + ")";
  std::size_t count = 1;
  for (std::size_t at = 1; at + 1 < shape.size();) {
    const std::size_t digits = shape.find_first_not_of("0123456789", at) - at;
    if (digits == 0 || digits > 9) {
      ++at;  // a blank or a comma
      continue;
    }
    const std::string word = shape.substr(at, digits);
    array.shape.push_back(std::stoll(word));
    at += word.size();
  }
  for (std::int64_t side : array.shape) {
    if (side < 0 || (side && count > npy.size() / static_cast<std::size_t>(side))) throw broken("an absurd shape");
    count *= static_cast<std::size_t>(side);
  }
  array.data = part(npy, 10 + length, count * item);
  return array;
}

Arrays read_archive(const Bytes& data) {
  const std::size_t end = data.rfind(Bytes("PK\5\6", 4));
  if (end == Bytes::npos) throw broken("not an archive");
  const std::uint64_t count = number(data, end + 10, 2);
  auto at = static_cast<std::size_t>(number(data, end + 16, 4));
  Arrays arrays;
  for (std::uint64_t i = 0; i < count; ++i) {
    if (part(data, at, 4) != Bytes("PK\1\2", 4)) throw broken("its directory ends early");
    if (number(data, at + 10, 2) != 0) throw Error("golden.npz", "holds compressed arrays", "make the bundle anew");
    const auto size = static_cast<std::size_t>(number(data, at + 24, 4)),
               offset = static_cast<std::size_t>(number(data, at + 42, 4));
    const auto name_size = static_cast<std::size_t>(number(data, at + 28, 2));
    std::string name = part(data, at + 46, name_size);
    if (name.size() < 4 || name.substr(name.size() - 4) != ".npy") throw broken("a member that is no array");
    const std::size_t start =
        offset + 30 + static_cast<std::size_t>(number(data, offset + 26, 2) + number(data, offset + 28, 2));
    arrays[name.substr(0, name.size() - 4)] = read_array(part(data, start, size));
    at += 46 + name_size + static_cast<std::size_t>(number(data, at + 30, 2) + number(data, at + 32, 2));
  }
  return arrays;
}

const Array& get(const Arrays& arrays, const std::string& name, const char* type, const std::string& engine) {
  const auto found = arrays.find(name);
  if (found == arrays.end() || found->second.type != type)
    throw Error("golden.npz", "holds no " + name, "make the bundle anew with " + engine);
  return found->second;
}

}  // namespace

std::vector<Case> golden_cases(const Bundle& bundle, const std::string& engine) {
  const auto member = bundle.members.find("golden.npz");
  if (member == bundle.members.end()) throw Error(bundle.manifest.name, "holds no golden.npz", "make the bundle anew");
  const Arrays arrays = read_archive(member->second);
  std::vector<Case> cases;
  for (std::size_t i = 0; arrays.count("image_" + std::to_string(i)); ++i) {
    const std::string index = std::to_string(i);
    Case one{"golden image " + index,
             get(arrays, "image_" + index, "'|u1'", engine).data,
             get(arrays, "decoded_" + index, "'|u1'", engine).data,
             {}};
    for (const Output& output : bundle.manifest.outputs)
      for (const std::string& name : output.tensors) {
        const Array& array = get(arrays, engine + "/" + index + "/" + name, "'<f4'", engine);
        Tensor tensor{array.shape, std::vector<float>(array.data.size() / 4)};
        std::memcpy(tensor.data.data(), array.data.data(), array.data.size());
        one.expected[name] = std::move(tensor);
      }
    cases.push_back(std::move(one));
  }
  if (cases.empty()) throw Error("golden.npz", "holds no image", "make the bundle anew with " + engine);
  return cases;
}

}  // namespace foveola
