"""Stand-ins for the outside services, over real HTTP. Development tools: production code never imports them."""
