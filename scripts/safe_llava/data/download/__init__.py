"""How bytes come: servers, mirrors, connections, and what goes on after a kill."""
