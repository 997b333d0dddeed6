"""The engines a replica can own. All serve the OpenAI API as an ASGI app and report to the shell's meter."""
