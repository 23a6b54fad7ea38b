"""The WASM runner: guest interpreters in WebAssembly, inside locked worker processes.

Two walls stand between a script and the machine. The inner one is WebAssembly: the guest reaches nothing but the few
functions it was given. The outer one is the worker process, which gives up every right it does not need before it
reads its first request. `pool` is what the service uses; wasmtime is imported only in worker and build processes.
"""
