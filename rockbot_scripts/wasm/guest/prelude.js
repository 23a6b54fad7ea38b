// What surrounds a JavaScript guest: console, timers, text coding, and the report of how the script ended.
// The engine alone has no timers or console.error, and its own `std` and `os` are taken away from the script.
const __main = (() => {
  const { evalScript, exit: leave, fdopen, in: stdin, out, err } = std;
  const { setTimeout: after, clearTimeout: drop, sleep, read } = os;
  const stringify = JSON.stringify;
  const DIRECT_LINES = 32;
  const LONGEST_DELAY = 2 ** 31 - 1;
  const STEP = 9000;
  const now = Date.now.bind(Date);
  const channel = fdopen(100, "w");
  let direct = DIRECT_LINES;
  let failed = false;

  for (const name of ["std", "os", "bjson", "scriptArgs", "execArgv", "argv0", "navigator", "print", "gc"]) {
    delete globalThis[name];
  }

  let parts;
  const library = () => (parts ??= evalScript(__library));
// What is plain needs no library, and most scripts print nothing else.
  const plain = (value) => typeof value === "boolean" || (typeof value === "number" && (value !== 0 || 1 / value > 0));
  const inspect = (value) => {
    if (plain(value)) return String(value);
    return typeof value === "string" && /^[\w .,:;!?+*/()-]*$/.test(value) ? `'${value}'` : library().inspect(value);
  };
  for (const name of ["TextEncoder", "TextDecoder", "structuredClone"]) {
    const define = (value) => Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });
    Object.defineProperty(globalThis, name, { configurable: true, get: () => (define(library()[name]), library()[name]), set: define });
  }

  function say(stream, args) {
    const pattern = args.length > 1 && typeof args[0] === "string" && args[0].includes("%");
    const simple = !pattern && args.every((item) => typeof item === "string" || plain(item));
    const text = !simple ? library().format(args) : args.length === 1 ? String(args[0]) : args.join(" ");
    if (text.length < 65536) stream.puts(`${text}\n`);
    else {
      for (let at = 0; at < text.length; at += 65536) stream.puts(text.slice(at, at + 65536));
      stream.puts("\n");
    }
    if (direct > 0) {
      direct -= 1;
      stream.flush();
    }
  }

  const log = (...args) => say(out, args);
  const warn = (...args) => say(err, args);
  globalThis.console = {
    log, info: log, debug: log, dir: (item) => log(item), table: (item) => log(item), group: log, groupEnd() {},
    warn, error: warn, trace: warn,
    assert: (holds, ...args) => holds || warn("Assertion failed", ...args),
  };
  globalThis.print = log;
  globalThis.exit = (code = 0) => {
    out.flush();
    err.flush();
    leave(code & 0xff);
  };

  const timers = new Map();
  let serial = 0;
  function timer(callback, delay, args, again) {
    if (typeof callback !== "function") throw new TypeError("the callback of a timer must be a function");
    const wait = Math.min(Math.max(again ? 1 : 0, Number(delay) || 0), LONGEST_DELAY);
    timers.set(++serial, { due: now() + wait, wait, again, callback, args });
    return serial;
  }
  const cancel = (id) => void timers.delete(id);
  globalThis.setTimeout = (callback, delay, ...args) => timer(callback, delay, args, false);
  globalThis.setInterval = (callback, delay, ...args) => timer(callback, delay, args, true);
  globalThis.setImmediate = (callback, ...args) => timer(callback, 0, args, false);
  globalThis.clearTimeout = globalThis.clearInterval = globalThis.clearImmediate = cancel;

  let text;
  Object.defineProperty(globalThis, "input", {
    configurable: true,
    get: () => (text ??= stdin.readAsString()),
    set: (value) => Object.defineProperty(globalThis, "input", { value, writable: true, configurable: true }),
  });

  function report(outcome) {
    out.flush();
    err.flush();
    channel.puts(`${stringify(outcome)}\n`);
    channel.flush();
  }

  function fail(outcome) {
    failed = true;
    report(outcome);
    leave(0);
  }

  function stop(failure) {
    if (failed) return;
    const isError = failure instanceof Error;
    const message = isError ? String(failure.message) : "";
    if (isError && failure.name === "InternalError" && message === "out of memory") {
      fail({ ending: "memory" });
    } else if (isError && (message === "Maximum call stack size exceeded" || message === "stack overflow")) {
      err.puts(`${failure.name}: ${message}\n`);
      fail({ ending: "recursion", reason: `${failure.name}: ${message}` });
    } else {
      let shown;
      try {
        shown = isError ? `${failure.name}: ${message}` : `Uncaught ${inspect(failure)}`;
        err.puts(`${shown}\n${isError && failure.stack ? library().clean(failure.stack) : ""}`.trimEnd() + "\n");
      } catch {
        shown = "an exception that cannot be shown";
      }
      fail({ ending: "failed", reason: shown.split("\n")[0].slice(0, 500) });
    }
  }

  // The engine runs one job, then looks at its own timers, and so on: a script's timer there would hold back every
  // pending promise. So timers are kept here. With a far timer of the engine armed, the host sees one poll per job,
  // and when exactly one happened between two questions of this loop, no other job is left.
  const answer = new ArrayBuffer(1);
  const ask = () => read(101, answer, 0, 1) === 1;
  async function idle() {
    const far = after(() => {}, LONGEST_DELAY);
    await null;
    ask();
    await null;
    const alone = ask();
    drop(far);
    return alone;
  }

  async function settle(isDone) {
    for (;;) {
      for (let pass = 0; pass < 32; pass++) await null;
      const alone = await idle();
      if (timers.size === 0) {
        if (alone && isDone()) return;
        if (alone) throw new Error("the script awaits a promise that nothing can settle any more");
        continue;
      }
      const [id, next] = [...timers].reduce((first, other) => (other[1].due < first[1].due ? other : first));
      const left = next.due - now();
      if (left > 0) {
        if (alone) sleep(Math.min(left, STEP));
        continue;
      }
      if (next.again) next.due = now() + next.wait;
      else timers.delete(id);
      next.callback(...next.args);
    }
  }

  return async (code, limit) => {
    try {
      let result, thrown, broken = false, done = false;
      (async () => {
        try {
          result = await (await evalScript(code, { async: true })).value;
        } catch (failure) {
          [thrown, broken] = [failure, true];
        }
        done = true;
      })();
      await settle(() => done || broken);
      if (broken) throw thrown;
      let value, cut = false;
      if (result !== undefined) {
        value = inspect(result);
        if (value.length > limit) [value, cut] = [value.slice(0, limit), true];
      }
      report({ ending: "done", value, cut });
      after(() => {}, LONGEST_DELAY);
      await new Promise(() => {});
    } catch (failure) {
      stop(failure);
    }
  };
})();
