// The rarer half of what surrounds a JavaScript guest: showing values, text coding, structured clones. It is compiled
// inside the guest when a script first needs it, because compiling it for every run would cost a millisecond.
(() => {
  const stringify = JSON.stringify;
  const STACK_CHARS = 16384;

  function clean(stack) {
    const lines = String(stack).split("\n");
    const end = lines.findIndex((line) => line.includes("(<cmdline>") || line.includes("evalScript (native)"));
    const shown = (end < 0 ? lines : lines.slice(0, end)).join("\n").replaceAll("<evalScript>", "<script>");
    return shown.length > STACK_CHARS ? `${shown.slice(0, STACK_CHARS)}\n[...]` : shown;
  }

  const quote = (text) => (text.includes("'") ? stringify(text) : `'${stringify(text).slice(1, -1).replaceAll('\\"', '"')}'`);
  const key = (name) => (typeof name === "symbol" ? `[${String(name)}]` : /^[A-Za-z_$][\w$]*$/.test(name) ? name : quote(name));

  function inspect(value, depth = 0, seen = []) {
    if (typeof value === "string") return quote(value);
    if (typeof value === "bigint") return `${value}n`;
    if (typeof value === "function") return /^class\b/.test(Function.prototype.toString.call(value)) ? `[class ${value.name}]` : `[Function: ${value.name || "(anonymous)"}]`;
    if (Object.is(value, -0)) return "-0";
    if (typeof value !== "object" || value === null) return String(value);
    if (value instanceof Error) return value.stack ? `${value.name}: ${value.message}\n${clean(value.stack)}`.trimEnd() : String(value);
    if (value instanceof Date) return isNaN(value) ? "Invalid Date" : value.toISOString();
    if (value instanceof RegExp) return String(value);
    if (value instanceof Promise) return "Promise {}";
    if (seen.includes(value)) return "[Circular]";
    const tag = value.constructor && value.constructor.name;
    if (depth > 4) return Array.isArray(value) ? "[Array]" : `[${tag || "Object"}]`;
    const inner = [...seen, value];
    const show = (item) => inspect(item, depth + 1, inner);
    const list = (items) => (items.length > 1000 ? [...items.slice(0, 1000).map(show), `... ${items.length - 1000} more`] : items.map(show)).join(", ");
    if (Array.isArray(value)) return value.length ? `[ ${list(Array.from(value))} ]` : "[]";
    if (value instanceof Map) return `Map(${value.size}) { ${[...value].map(([k, v]) => `${show(k)} => ${show(v)}`).join(", ")} }`;
    if (value instanceof Set) return `Set(${value.size}) { ${list([...value])} }`;
    if (ArrayBuffer.isView(value) && "length" in value) return `${tag}(${value.length}) [ ${list(Array.from(value))} ]`;
    if (value instanceof ArrayBuffer) return `ArrayBuffer { byteLength: ${value.byteLength} }`;
    if (value instanceof Number || value instanceof String || value instanceof Boolean) return `[${tag}: ${inspect(value.valueOf())}]`;
    const fields = Reflect.ownKeys(value).filter((name) => Object.prototype.propertyIsEnumerable.call(value, name)).map((name) => `${key(name)}: ${show(value[name])}`);
    const prefix = tag === undefined || tag === null ? "[Object: null prototype] " : tag === "Object" ? "" : `${tag} `;
    return fields.length ? `${prefix}{ ${fields.join(", ")} }` : `${prefix}{}`;
  }

  function format(args) {
    const rest = [...args];
    let head = "";
    if (typeof rest[0] === "string" && rest.length > 1 && rest[0].includes("%")) {
      head = rest.shift().replace(/%([sdifjoOc%])/g, (whole, kind) => {
        if (kind === "%") return "%";
        if (!rest.length) return whole;
        const item = rest.shift();
        if (kind === "s") return typeof item === "string" ? item : inspect(item);
        if (kind === "d") return String(Number(item));
        if (kind === "i") return String(parseInt(item, 10));
        if (kind === "f") return String(parseFloat(item));
        if (kind === "j") return stringify(item);
        return kind === "c" ? "" : inspect(item);
      });
      if (!rest.length) return head;
      head += " ";
    }
    return head + rest.map((item) => (typeof item === "string" ? item : inspect(item))).join(" ");
  }

  const TextEncoder = class TextEncoder {
    get encoding() { return "utf-8"; }
    encode(text = "") {
      const bytes = [];
      for (const char of String(text).toWellFormed()) {
        const point = char.codePointAt(0);
        if (point < 0x80) bytes.push(point);
        else if (point < 0x800) bytes.push(0xc0 | (point >> 6), 0x80 | (point & 63));
        else if (point < 0x10000) bytes.push(0xe0 | (point >> 12), 0x80 | ((point >> 6) & 63), 0x80 | (point & 63));
        else bytes.push(0xf0 | (point >> 18), 0x80 | ((point >> 12) & 63), 0x80 | ((point >> 6) & 63), 0x80 | (point & 63));
      }
      return new Uint8Array(bytes);
    }
  };
  const TextDecoder = class TextDecoder {
    get encoding() { return "utf-8"; }
    decode(data = new Uint8Array()) {
      const bytes = data instanceof ArrayBuffer ? new Uint8Array(data) : new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      let text = "";
      for (let at = 0; at < bytes.length; ) {
        const lead = bytes[at++];
        const more = lead < 0x80 ? 0 : lead >= 0xc2 && lead < 0xe0 ? 1 : lead >= 0xe0 && lead < 0xf0 ? 2 : lead >= 0xf0 && lead < 0xf5 ? 3 : -1;
        let point = more < 0 ? 0xfffd : more === 0 ? lead : lead & (0x3f >> more);
        for (let step = 0; step < more; step++) {
          if (at >= bytes.length || (bytes[at] & 0xc0) !== 0x80) { point = 0xfffd; break; }
          point = (point << 6) | (bytes[at++] & 63);
        }
        const valid = point <= 0x10ffff && !(point >= 0xd800 && point < 0xe000) && !(more === 2 && point < 0x800) && !(more === 3 && point < 0x10000);
        text += String.fromCodePoint(valid ? point : 0xfffd);
      }
      return text;
    }
  };
  const structuredClone = (value) => {
    const made = new Map();
    const copy = (item) => {
      if (typeof item === "function" || typeof item === "symbol") throw new TypeError("a function or symbol cannot be cloned");
      if (typeof item !== "object" || item === null) return item;
      if (made.has(item)) return made.get(item);
      if (item instanceof Date) return new Date(item.getTime());
      if (item instanceof RegExp) return new RegExp(item.source, item.flags);
      if (item instanceof ArrayBuffer) return item.slice(0);
      if (ArrayBuffer.isView(item)) return item instanceof DataView ? new DataView(item.buffer.slice(0), item.byteOffset, item.byteLength) : item.slice();
      const fresh = Array.isArray(item) ? new Array(item.length) : item instanceof Map ? new Map() : item instanceof Set ? new Set() : item instanceof Error ? Object.assign(new item.constructor(item.message), { stack: item.stack }) : {};
      made.set(item, fresh);
      if (item instanceof Map) for (const [k, v] of item) fresh.set(copy(k), copy(v));
      else if (item instanceof Set) for (const v of item) fresh.add(copy(v));
      else for (const name of Object.keys(item)) fresh[name] = copy(item[name]);
      return fresh;
    };
    return copy(value);
  };
  return { clean, inspect, format, TextEncoder, TextDecoder, structuredClone };
})();
