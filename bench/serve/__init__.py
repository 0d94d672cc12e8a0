"""`make bench-serve`: the endpoint beside Triton alone, OpenVINO GenAI in a process, and llama.cpp's server."""
