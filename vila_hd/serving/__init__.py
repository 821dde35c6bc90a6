"""An HTTP server with the API of OpenAI, and a tool for agents (MCP). Needs the extra ``serve``.

Nothing else of the library imports this package.
"""
