const port = Number(process.argv[2] ?? 8080);
require("node:http").createServer((_, response) => response.end("hello from Node\n")).listen(port);
