"""For tests of what is built on RockBot: a conformance suite for adapters of model providers.

To prove an adapter of your own, write a `Stage` for it and subclass the suite in a test module (pytest and pytest-asyncio in auto
mode are needed)::

    import pytest
    from rockbot.testing.model_contract import ModelContract

    class TestMyProvider(ModelContract):
        @pytest.fixture
        async def stage(self):
            ...

Importing this package does not load pytest; `rockbot.testing.model_contract` does.
"""
