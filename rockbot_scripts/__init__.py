"""Runs code that nobody trusts: a contract, a policy, sandboxed runners and the service that answers with them.

Importing this package loads nothing; other programs that only send scripts import `rockbot_scripts.contract`,
which needs pydantic alone. Everything that touches the sandbox engine lives in `rockbot_scripts.wasm`.
"""
