// Renders /openapi.json. Text always goes in as text nodes: nothing of the document is ever parsed as HTML.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];
let spec;

function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const resolve = (node) => {
  while (node && node.$ref) node = node.$ref.slice(2).split("/").reduce((at, key) => at[key], spec);
  return node;
};

// `code` and **bold** of a one-line text.
function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((part) => {
    if (part.startsWith("`")) return h("code", {}, part.slice(1, -1));
    if (part.startsWith("**")) return h("strong", {}, part.slice(2, -2));
    return part;
  });
}

// Paragraphs and `* ` lists.
function prose(text) {
  return (text || "").split(/\n\n+/).map((block) => {
    if (!block.trimStart().startsWith("* ")) return h("p", {}, inline(block.replace(/\n/g, " ")));
    const items = block.trim().slice(2).split(/\n\* /);
    return h("ul", {}, items.map((item) => h("li", {}, inline(item.replace(/\n\s*/g, " ")))));
  });
}

function typeName(schema) {
  const name = schema.$ref ? schema.$ref.split("/").pop() : "";
  schema = resolve(schema);
  if (name && schema.enum) return name;
  const variants = schema.anyOf || schema.oneOf;
  if (variants) return [...new Set(variants.map(typeName))].join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return `array of ${schema.items ? typeName(schema.items) : "anything"}`;
  if (name) return name;
  return [].concat(schema.type || "anything").join(" or ") + (schema.format ? ` (${schema.format})` : "");
}

function rules(schema) {
  const found = [];
  for (const each of [schema, ...(schema.anyOf || [])].map(resolve)) {
    if (each.pattern) found.push(`matches ${each.pattern}`);
    if (each.minLength !== undefined) found.push(`${each.minLength}–${each.maxLength ?? "∞"} characters`);
    else if (each.maxLength !== undefined) found.push(`at most ${each.maxLength} characters`);
    if (each.minimum !== undefined || each.maximum !== undefined) found.push(`${each.minimum ?? "−∞"} to ${each.maximum ?? "∞"}`);
    if (each.minItems !== undefined || each.maxItems !== undefined) found.push(`${each.minItems ?? 0}–${each.maxItems ?? "∞"} items`);
  }
  if (schema.default !== undefined && schema.default !== null) found.push(`default ${JSON.stringify(schema.default)}`);
  return [...new Set(found)].join(", ");
}

// The object schema inside a property, if there is one to unfold.
function inner(schema) {
  schema = resolve(schema);
  if (schema.properties) return schema;
  if (schema.items) return inner(schema.items);
  for (const variant of schema.anyOf || []) {
    const found = inner(variant);
    if (found) return found;
  }
  return null;
}

function fields(schema, depth = 0) {
  schema = resolve(schema);
  if (!schema.properties) return h("p", {}, h("code", {}, typeName(schema)));
  const required = new Set(schema.required || []);
  const rows = Object.entries(schema.properties).map(([name, property]) => {
    const nested = depth < 4 ? inner(property) : null;
    return h("tr", {},
      h("td", {}, h("code", {}, name), required.has(name) ? h("span", { class: "required" }, "required") : null),
      h("td", {}, typeName(property),
        h("div", { class: "dim" }, rules(property)),
        property.description ? h("div", {}, ...prose(property.description)) : null,
        nested ? h("details", {}, h("summary", {}, "fields"), h("div", { class: "nested" }, fields(nested, depth + 1))) : null));
  });
  return h("div", { class: "scroll" }, h("table", {}, rows));
}

function example(schema, name = "", depth = 0) {
  schema = resolve(schema);
  if (depth > 6) return null;
  if (schema.const !== undefined) return schema.const;
  if (name === "currency") return "AED";
  if (schema.enum) return schema.enum[0];
  if (schema.anyOf) return example(schema.anyOf[0], name, depth);
  if (schema.properties) {
    const required = schema.required || [];
    const shown = Object.entries(schema.properties).filter(([key]) => required.includes(key) || depth === 0 && required.length === 0);
    return Object.fromEntries(shown.map(([key, value]) => [key, example(value, key, depth + 1)]));
  }
  if (schema.type === "array") return [example(schema.items || {}, name, depth + 1)];
  if (schema.type === "integer") return name.includes("amount") || name.includes("minor") ? 125000 : schema.minimum ?? 1;
  if (schema.type === "boolean") return false;
  if (schema.format === "uuid") return "018f3b1c-7c00-7b1a-9d53-0c5b1a2e4f60";
  if (schema.format === "date") return "2026-01-31";
  if (schema.format === "date-time") return "2026-01-31T08:00:00Z";
  const known = { patient: "Patient/123", code_system: "http://snomed.info/sct", period: "2026-01", revenue_code: "4000",
    debit_code: "1000", credit_code: "4900", code: "4000", quantity: "1" };
  return known[name] || name || "text";
}

function sample(path, method, operation) {
  const lines = [`curl -X ${method.toUpperCase()} "$BILLING${path}"`, '-H "Authorization: Bearer $TOKEN"'];
  if (operation.parameters.some((each) => each.name === "Idempotency-Key" && each.required)) lines.push('-H "Idempotency-Key: $(uuidgen)"');
  const body = operation.requestBody && operation.requestBody.content["application/json"].schema;
  if (body) lines.push('-H "Content-Type: application/json"', `-d '${JSON.stringify(example(body), null, 2)}'`);
  return h("pre", {}, lines.join(" \\\n  "));
}

function parameters(operation) {
  if (!operation.parameters.length) return null;
  const rows = operation.parameters.map((each) => h("tr", {},
    h("td", {}, h("code", {}, each.name), each.required ? h("span", { class: "required" }, "required") : null),
    h("td", { class: "dim" }, each.in),
    h("td", {}, typeName(each.schema), h("div", { class: "dim" }, rules(each.schema)), each.description ? h("div", {}, inline(each.description)) : null)));
  return [h("h3", {}, "Parameters"), h("div", { class: "scroll" }, h("table", {}, rows))];
}

function responses(operation) {
  const rows = Object.entries(operation.responses).sort().map(([status, response]) => {
    const shared = Boolean(response.$ref);
    response = resolve(response);
    const content = Object.values(response.content || {})[0];
    return h("tr", {},
      h("td", {}, h("span", { class: `status s${status[0]}` }, status)),
      h("td", {}, inline(response.description),
        content && !shared ? h("details", {}, h("summary", {}, "body"), fields(content.schema)) : null));
  });
  return [h("h3", {}, "Responses"), h("div", { class: "scroll" }, h("table", {}, rows))];
}

function article(path, method, operation) {
  const body = operation.requestBody && operation.requestBody.content["application/json"].schema;
  const element = h("article", { id: operation.operationId },
    h("h2", {}, h("span", { class: `method ${method}` }, method.toUpperCase()), h("span", { class: "path" }, path)),
    h("p", {}, h("strong", {}, operation.summary)),
    prose(operation.description),
    parameters(operation),
    body ? [h("h3", {}, "Body"), fields(body)] : null,
    responses(operation),
    h("details", {}, h("summary", {}, "Example"), sample(path, method, operation)));
  element.dataset.search = `${method} ${path} ${operation.summary} ${operation.operationId} ${operation.description}`.toLowerCase();
  return element;
}

function render() {
  const main = document.getElementById("main"), contents = document.getElementById("contents");
  const problem = h("details", {}, h("summary", {}, "The problem document and its codes"), fields({ $ref: "#/components/schemas/Problem" }));
  main.replaceChildren(h("section", { class: "intro" }, ...prose(spec.info.description), problem));
  const operations = Object.entries(spec.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => [path, method, item[method]]));
  for (const { name } of spec.tags) {
    contents.append(h("h2", {}, name));
    for (const [path, method, operation] of operations.filter(([, , each]) => each.tags.includes(name))) {
      main.append(article(path, method, operation));
      const link = h("a", { href: `#${operation.operationId}` }, h("span", { class: `method ${method}` }, method.toUpperCase()), operation.summary);
      link.dataset.for = operation.operationId;
      contents.append(link);
    }
  }
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

function filter(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const element of document.querySelectorAll("article")) {
    element.hidden = !words.every((word) => element.dataset.search.includes(word));
    document.querySelector(`nav a[data-for="${element.id}"]`).hidden = element.hidden;
  }
}

function switchTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
}

document.getElementById("theme").addEventListener("click", switchTheme);
document.getElementById("filter").addEventListener("input", (event) => filter(event.target.value));
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && event.target.tagName !== "INPUT") {
    event.preventDefault();
    document.getElementById("filter").focus();
  }
});
fetch("/openapi.json").then((response) => response.json()).then((document_) => { spec = document_; render(); })
  .catch(() => { document.getElementById("main").textContent = "The API description could not be loaded."; });
