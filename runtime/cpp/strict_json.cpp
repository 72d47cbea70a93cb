// See strict_json.hpp. What msgspec does for Python: the forms are those of its Structs with forbid_unknown_fields.
#include "strict_json.hpp"

#include <cmath>
#include <set>

namespace foveola {
namespace {

constexpr int DEEPEST = 64;

[[noreturn]] void fail(const std::string& fault, const std::string& path) {
  throw Fault(fault + " - at `" + path + "`");
}

void expect(bool holds, const char* what, const std::string& path) {
  if (!holds) fail(std::string("Expected `") + what + "`", path);
}

}  // namespace

Json parse_json(const std::string& text) {
  std::vector<std::set<std::string>> names;
  const auto look = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth > DEEPEST) throw Fault("deeper than 64");
    if (event == Json::parse_event_t::object_start) names.emplace_back();
    if (event == Json::parse_event_t::object_end) names.pop_back();
    if (event == Json::parse_event_t::key && !names.back().insert(value.get<std::string>()).second)
      throw Fault("a name stands twice");
    return true;
  };
  try {
    return Json::parse(text, look);
  } catch (const Json::exception&) {
    throw Fault("JSON is malformed");
  }
}

Form object(std::vector<Field> fields, const char* ignored) {
  return [fields = std::move(fields), ignored = std::string(ignored)](const Json& value, const std::string& path) {
    expect(value.is_object(), "object", path);
    for (const auto& [name, inner] : value.items()) {
      bool found = name == ignored;
      for (const Field& field : fields) {
        if (name != field.name) continue;
        field.form(inner, path + "." + name);
        found = true;
      }
      if (!found) fail("Object contains unknown field `" + name + "`", path);
    }
    for (const Field& field : fields)
      if (field.required && !value.contains(field.name))
        fail(std::string("Object missing required field `") + field.name + "`", path);
  };
}

Form list(Form item, std::size_t least, std::size_t most) {
  return [=](const Json& value, const std::string& path) {
    expect(value.is_array(), "array", path);
    if (value.size() < least || value.size() > most) fail("Expected another length of `array`", path);
    for (const Json& one : value) item(one, path + "[...]");
  };
}

Form dictionary(Form item, std::size_t most) {
  return [=](const Json& value, const std::string& path) {
    expect(value.is_object(), "object", path);
    if (value.size() > most) fail("Expected a shorter `object`", path);
    for (const Json& one : value) item(one, path + "[...]");
  };
}

Form or_null(Form form) {
  return [=](const Json& value, const std::string& path) {
    if (!value.is_null()) form(value, path);
  };
}

Form text() {
  return [](const Json& value, const std::string& path) { expect(value.is_string(), "str", path); };
}

Form word(std::vector<std::string> allowed) {
  return [allowed = std::move(allowed)](const Json& value, const std::string& path) {
    expect(value.is_string(), "str", path);
    for (const std::string& one : allowed)
      if (value.get_ref<const std::string&>() == one) return;
    fail("Invalid enum value", path);
  };
}

Form sha256_text() {
  return [](const Json& value, const std::string& path) {
    expect(value.is_string(), "str", path);
    const auto& found = value.get_ref<const std::string&>();
    if (found.size() != 64 || found.find_first_not_of("0123456789abcdef") != std::string::npos)
      fail("Expected `str` of 64 hexadecimal digits", path);
  };
}

Form boolean() {
  return [](const Json& value, const std::string& path) { expect(value.is_boolean(), "bool", path); };
}

Form whole(std::int64_t least, std::int64_t most) {
  return [=](const Json& value, const std::string& path) {
    expect(value.is_number_integer(), "int", path);
    const bool beyond =
        value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX);
    if (beyond || value.get<std::int64_t>() < least || value.get<std::int64_t>() > most)
      fail("Expected `int` of another size", path);
  };
}

Form real(double low, double high, bool open_low) {
  return [=](const Json& value, const std::string& path) {
    expect(value.is_number(), "float", path);
    const double found = value.get<double>();
    if (!std::isfinite(found) || found < low || found > high || (open_low && found == low))
      fail("Expected `float` of another size", path);
  };
}

Form any_object() {
  return [](const Json& value, const std::string& path) { expect(value.is_object(), "object", path); };
}

}  // namespace foveola
