"""The gRPC services. Each RPC validates the request, makes one call to the domain and builds the response."""
