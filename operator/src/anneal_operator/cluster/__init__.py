"""The only part that talks to the API server, and to the pods' own endpoints."""
