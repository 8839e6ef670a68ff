"""The program `fleet`: one module per command, each: parse, one call, print."""
