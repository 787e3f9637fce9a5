// Creates a container on Azurite with the account and key that its documentation publishes.
const crypto = require("node:crypto");
const http = require("node:http");

const account = "devstoreaccount1";
const key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const path = `/${account}/${process.env.CONTAINER}`;
const headers = { "x-ms-date": new Date().toUTCString(), "x-ms-version": "2021-12-02", "content-length": "0" };
const text = [
  "PUT", "", "", "", "", "", "", "", "", "", "", "",
  `x-ms-date:${headers["x-ms-date"]}`, `x-ms-version:${headers["x-ms-version"]}`,
  `/${account}${path}`, "restype:container",
].join("\n");
const signature = crypto.createHmac("sha256", Buffer.from(key, "base64")).update(text).digest("base64");
headers.authorization = `SharedKey ${account}:${signature}`;
const options = { host: "127.0.0.1", port: process.env.PORT, method: "PUT", path: `${path}?restype=container`, headers };
http.request(options, (answer) => {
  answer.pipe(process.stderr);
  answer.on("end", () => process.exit(answer.statusCode === 201 ? 0 : 1));
}).end();
