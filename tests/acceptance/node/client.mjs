// A billing client in JavaScript, as a tenant's own NATS user. Reads its task from the environment, prints one JSON document.
import { createInbox, connect, headers } from "@nats-io/transport-node";
import { jetstream, jetstreamManager, AckPolicy, DeliverPolicy } from "@nats-io/jetstream";
import { randomUUID } from "node:crypto";

const { NATS_URL, TENANT, OTHER_TENANT } = process.env;
const url = new URL(NATS_URL);
const inboxPrefix = `_INBOX.${TENANT}`;
const connection = await connect({
  servers: url.host,
  user: url.username,
  pass: url.password,
  inboxPrefix,
  timeout: 5000,
});
const stream = jetstream(connection);
const waiting = new Map();
const inbox = createInbox(inboxPrefix);

connection.subscribe(`${inbox}.*`, {
  callback: (error, message) => {
    const outcome = message.json();
    waiting.get(message.subject)?.(outcome);
  },
});

/** Publishes a command, waits for its PubAck and then for its outcome. */
async function command(name, body, { id = randomUUID(), attempt } = {}) {
  const replyTo = `${inbox}.${randomUUID()}`;
  const arrived = new Promise((resolve) => waiting.set(replyTo, resolve));
  const given = headers();
  given.set("Nats-Msg-Id", attempt ? `${id}:${attempt}` : id);
  given.set("Billing-Reply-To", replyTo);
  given.set("Billing-Actor", "node-client");
  const ack = await stream.publish(`billing.v1.cmd.${TENANT}.${name}`, JSON.stringify(body), { headers: given });
  return { id, stream: ack.stream, outcome: await arrived };
}

/** What happens when this tenant's user publishes for another tenant. */
async function trespass() {
  try {
    await connection.request(`billing.v1.cmd.${OTHER_TENANT}.payment.record`, "{}", { timeout: 2000 });
    return "published";
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}

/** What happens when it listens to another tenant's events. */
async function eavesdrop() {
  const subscription = connection.subscribe(`billing.v1.evt.${OTHER_TENANT}.>`, { max: 1, timeout: 2000 });
  try {
    for await (const _ of subscription) return "heard";
    return "closed";
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}

/** The tenant's events, through the one durable it may have, acknowledged one by one. */
async function events(count) {
  const manager = await jetstreamManager(connection, { checkAPI: false });
  const durable = `tenant-${TENANT}`;
  await manager.consumers.add("BILLING_EVENTS", {
    durable_name: durable,
    filter_subject: `billing.v1.evt.${TENANT}.>`,
    ack_policy: AckPolicy.Explicit,
    deliver_policy: DeliverPolicy.All,
  });
  const consumer = stream.consumers.getConsumerFromInfo(await manager.consumers.info("BILLING_EVENTS", durable));
  const found = [];
  while (found.length < count) {
    for await (const message of await consumer.fetch({ max_messages: count - found.length, expires: 2000 })) {
      found.push({
        subject: message.subject,
        id: message.headers.get("ce-id"),
        type: message.headers.get("ce-type"),
        sequence: Number(message.headers.get("ce-sequence")),
        command: message.headers.get("Billing-Command-Id"),
        data: message.json(),
      });
      await message.ackAck();
    }
  }
  return found;
}

const opened = await command("account.open", { patient: "Patient/7", currency: "AFN", guarantor: "نور\u200cمحمد" });
const accountId = opened.outcome.result.account_id;
const payment = { account_id: accountId, amount: { amount_minor: 125000, currency: "AFN" }, method: "cash" };
const paid = await command("payment.record", payment);
const again = await command("payment.record", payment, { id: paid.id, attempt: "2" });
const refused = await command("payment.record", { ...payment, amount: { amount_minor: 5, currency: "AED" } });
const malformed = await command("payment.record", { ...payment, amount: 1250.5 });
const answer = await connection.request(
  `billing.v1.qry.${TENANT}.account.balance`,
  JSON.stringify({ account_id: accountId, at_least: paid.outcome.position }),
  { timeout: 5000 },
);
const report = {
  opened,
  paid,
  again,
  refused,
  malformed,
  balance: answer.json(),
  events: await events(2),
  trespass: await trespass(),
  eavesdrop: await eavesdrop(),
};
console.log(JSON.stringify(report));
await connection.close();
