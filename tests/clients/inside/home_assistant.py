"""Home Assistant's conversation with its Assist tools: one lamp, one sentence after the other.

``python home_assistant.py FOLDER PORT MODEL TEXT...``, with OPENAI_BASE_URL in the environment. Prints for each
sentence what was answered, and whether the lamp is on afterwards. Its own web server listens on PORT.
"""

import asyncio
import json
import sys

from homeassistant import auth, bootstrap, loader
from homeassistant.components import conversation
from homeassistant.components.homeassistant.exposed_entities import async_expose_entity
from homeassistant.config_entries import ConfigEntries, ConfigEntry
from homeassistant.core import Context, HomeAssistant
from homeassistant.setup import async_setup_component

LAMP = "input_boolean.lamp"
OPTIONS = {"llm_hass_api": "assist", "recommended": False, "max_tokens": 150, "prompt": "Be brief."}


async def main(folder: str, port: str, model: str, *texts: str) -> None:
    """Set up just what a conversation needs, and talk."""
    hass = HomeAssistant(folder)
    hass.config.skip_pip = True
    hass.config_entries = ConfigEntries(hass, {})
    loader.async_setup(hass)
    await bootstrap.async_load_base_functionality(hass)
    hass.auth = await auth.auth_manager_from_config(hass, [], [])
    config = {
        "http": {"server_host": "127.0.0.1", "server_port": int(port)},
        "input_boolean": {"lamp": {"name": "Lamp"}},
        "conversation": {},
    }
    for component in ("homeassistant", *config):
        assert await async_setup_component(hass, component, config), component
    async_expose_entity(hass, "conversation", LAMP, True)
    entry = ConfigEntry(
        data={"api_key": "none"},
        discovery_keys={},
        domain="openai_conversation",
        minor_version=1,
        options={**OPTIONS, "chat_model": model},
        source="user",
        title="Milo",
        unique_id=None,
        version=1,
    )
    await hass.config_entries.async_add(entry)
    await hass.async_start()
    said = []
    chat = None
    for text in texts:
        result = await conversation.async_converse(
            hass, text, chat, Context(), language="en", agent_id="conversation.milo"
        )
        chat = result.conversation_id
        speech = result.response.speech["plain"]["speech"]
        said.append((speech, hass.states.get(LAMP).state))
    print("=>", json.dumps(said))
    await hass.async_stop(force=True)


asyncio.run(main(*sys.argv[1:]))
