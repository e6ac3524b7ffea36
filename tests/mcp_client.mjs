// What the protocol's SDK for TypeScript makes of a server: node mcp_client.mjs URL COMMAND [JSON]
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { CallToolResultSchema } from "@modelcontextprotocol/sdk/types.js";

const [url, command, given] = process.argv.slice(2);
const { headers, ...asked } = JSON.parse(given ?? "{}");
const client = new Client({ name: "test", version: "1" }, { capabilities: {} });
const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
const tasks = client.experimental.tasks;

async function created() {
  for await (const message of tasks.callToolStream(asked, undefined, { task: { ttl: 60000 } })) {
    if (message.type === "taskCreated") return message.task;
    if (message.type === "error") throw message.error;
  }
}

const commands = {
  async tour() {
    const { tools } = await client.listTools();
    const called = await client.callTool(asked);
    const { resources } = await client.listResources();
    const { contents } = await client.readResource({ uri: resources[0].uri });
    const { resourceTemplates } = await client.listResourceTemplates();
    const ref = { type: "ref/resource", uri: resourceTemplates[0].uriTemplate };
    const { completion } = await client.complete({ ref, argument: { name: "key", value: "no" } });
    const capabilities = client.getServerCapabilities();
    return { tools, called, resources, contents, completion, capabilities, version: transport.protocolVersion };
  },
  call: async () => await client.callTool(asked),
  created,
  get: async () => await tasks.getTask(asked.taskId),
  result: async () => await tasks.getTaskResult(asked.taskId, CallToolResultSchema),
  list: async () => await tasks.listTasks(),
  cancel: async () => await tasks.cancelTask(asked.taskId),
};

try {
  await client.connect(transport);
  console.log(JSON.stringify({ ok: await commands[command]() }));
} catch (error) {
  console.log(JSON.stringify({ error: { code: error.code, message: error.message } }));
}
process.exit(0);
