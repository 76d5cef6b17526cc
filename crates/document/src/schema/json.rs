//! The JSON form of a schema: parsed as the Python and npm SDKs print it, printed as Python does.

use serde_json::{Map, Value, json};

use super::{
    ByName, ChildProperty, ElementProperty, ElementType, MeshSchema, SchemaError, SchemaLimits,
    SimpleValue, ValueProperty, push_segment, quoted,
};

const DEFS: &str = "#/$defs/";

impl MeshSchema {
    /// Parses the JSON form that the SDKs print, within [the default limits](SchemaLimits).
    ///
    /// # Errors
    /// [`SchemaError`] with the location of the first defect.
    pub fn from_json(json: &Value) -> Result<Self, SchemaError> {
        Self::from_json_within(json, &SchemaLimits::default())
    }

    /// Like [`Self::from_json`], with other limits.
    ///
    /// # Errors
    /// [`SchemaError`] with the location of the first defect.
    pub fn from_json_within(json: &Value, limits: &SchemaLimits) -> Result<Self, SchemaError> {
        limits.check_bytes(json)?;
        let schema = object(json, "")?;
        let root = member(schema, "", "$root_tag_ref")?;
        let root = reference(root, "/$root_tag_ref")?;
        let defs = object(member(schema, "", "$defs")?, "/$defs")?;
        limits.check_elements(defs.len())?;
        let mut elements = Vec::with_capacity(defs.len());
        for (key, definition) in defs {
            let mut pointer = String::from("/$defs");
            push_segment(&mut pointer, key);
            limits.check_name(&pointer, key)?;
            elements.push(element_type(key, definition, &pointer, limits)?);
        }
        Self::new(root, elements)
    }

    /// Returns the JSON form, as the Python SDK prints it.
    pub fn to_json(&self) -> Value {
        let root = self.root();
        let mut schema = Map::new();
        schema.insert(
            "$root_tag_ref".into(),
            format!("{DEFS}{}", root.tag()).into(),
        );
        schema.append(&mut print_element(root));
        let defs = self.elements().iter();
        let defs = defs.map(|element| (element.tag.clone(), print_element(element).into()));
        schema.insert("$defs".into(), Value::Object(defs.collect()));
        Value::Object(schema)
    }
}

fn element_type(
    key: &str,
    json: &Value,
    pointer: &str,
    limits: &SchemaLimits,
) -> Result<ElementType, SchemaError> {
    let definition = object(json, pointer)?;
    let pointer = &format!("{pointer}/properties");
    let tags = object(member(definition, parent(pointer), "properties")?, pointer)?;
    let Some((tag, inner)) = tags.iter().next() else {
        return Err(SchemaError::at(
            pointer,
            "tag is missing; add one property with the definition's name",
        ));
    };
    let mut pointer = pointer.clone();
    push_segment(&mut pointer, tag);
    if tag != key {
        return Err(SchemaError::at(
            pointer,
            format!(
                "tag {} is defined under the name {}; use one name for both",
                quoted(tag),
                quoted(key)
            ),
        ));
    }
    let inner = object(inner, &pointer)?;
    let mut element = ElementType::new(tag);
    element.description = description(definition, parent(parent(&pointer)))?;
    let properties = member(inner, &pointer, "properties")?;
    pointer.push_str("/properties");
    let properties = object(properties, &pointer)?;
    limits.check_properties(&pointer, properties.len())?;
    for (name, property) in properties {
        let mut pointer = pointer.clone();
        push_segment(&mut pointer, name);
        limits.check_name(&pointer, name)?;
        let property = self::property(name, property, &pointer, limits)?;
        element.properties.push(property);
    }
    Ok(element)
}

fn property(
    name: &str,
    json: &Value,
    pointer: &str,
    limits: &SchemaLimits,
) -> Result<ElementProperty, SchemaError> {
    let property = object(json, pointer)?;
    let description = description(property, pointer)?;
    let (type_name, nullable) = match member(property, pointer, "type")? {
        Value::String(name) => (name.as_str(), false),
        Value::Array(names) => {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            let name = names
                .iter()
                .find(|&&name| name != "null")
                .or_else(|| names.first());
            (name.copied().unwrap_or_default(), names.contains(&"null"))
        }
        _ => ("", false),
    };
    if type_name == "array" {
        let (tags, ordered) = child_tags(property, pointer)?;
        return Ok(ElementProperty::Child(ChildProperty {
            name: name.to_owned(),
            tags,
            description,
            ordered,
            by_tag: ByName::default(),
        }));
    }
    let Some(value_type) = SimpleValue::from_name(type_name) else {
        return Err(SchemaError::at(
            format!("{pointer}/type"),
            format!(
                "value type {} is unknown; use \"string\", \"number\", \"boolean\", \
                 \"null\" or \"array\"",
                quoted(type_name)
            ),
        ));
    };
    let variants = match property.get("enum") {
        None | Some(Value::Null) => None,
        Some(Value::Array(values)) => {
            limits.check_enum(&format!("{pointer}/enum"), values.len())?;
            Some(values.clone())
        }
        Some(_) => {
            return Err(SchemaError::at(
                format!("{pointer}/enum"),
                "expected an array of values",
            ));
        }
    };
    Ok(ElementProperty::Value(ValueProperty {
        name: name.to_owned(),
        value_type,
        description,
        variants,
        required: !nullable,
    }))
}

fn child_tags(
    property: &Map<String, Value>,
    pointer: &str,
) -> Result<(Vec<String>, bool), SchemaError> {
    let (list, pointer, ordered) = if let Some(list) = property.get("prefixItems") {
        (list, format!("{pointer}/prefixItems"), true)
    } else if let Some(list) = property.get("items").and_then(|items| items.get("anyOf")) {
        (list, format!("{pointer}/items/anyOf"), false)
    } else {
        return Err(SchemaError::at(
            pointer,
            "an array needs \"items\" with \"anyOf\", or \"prefixItems\", to name its child tags",
        ));
    };
    let Value::Array(list) = list else {
        return Err(SchemaError::at(
            pointer,
            "expected an array of {\"$ref\": …}",
        ));
    };
    let mut tags = Vec::with_capacity(list.len());
    for (index, item) in list.iter().enumerate() {
        let pointer = format!("{pointer}/{index}");
        let target = member(object(item, &pointer)?, &pointer, "$ref")?;
        tags.push(reference(target, &format!("{pointer}/$ref"))?.to_owned());
    }
    Ok((tags, ordered))
}

fn object<'a>(json: &'a Value, pointer: &str) -> Result<&'a Map<String, Value>, SchemaError> {
    json.as_object()
        .ok_or_else(|| SchemaError::at(pointer, "expected an object"))
}

fn member<'a>(
    object: &'a Map<String, Value>,
    pointer: &str,
    name: &str,
) -> Result<&'a Value, SchemaError> {
    object
        .get(name)
        .ok_or_else(|| SchemaError::at(pointer, format!("{name:?} is missing; add it")))
}

fn reference<'a>(json: &'a Value, pointer: &str) -> Result<&'a str, SchemaError> {
    json.as_str()
        .and_then(|reference| reference.strip_prefix(DEFS))
        .ok_or_else(|| SchemaError::at(pointer, "expected a reference like \"#/$defs/TAG\""))
}

fn description(object: &Map<String, Value>, pointer: &str) -> Result<Option<String>, SchemaError> {
    match object.get("description") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(description)) => Ok(Some(description.clone())),
        Some(_) => Err(SchemaError::at(
            format!("{pointer}/description"),
            "expected text",
        )),
    }
}

fn parent(pointer: &str) -> &str {
    pointer.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn print_element(element: &ElementType) -> Map<String, Value> {
    let names = element
        .properties
        .iter()
        .map(|property| property.name().into());
    let required: Vec<Value> = names.collect();
    let properties = element.properties.iter();
    let properties: Map<String, Value> = properties
        .map(|property| (property.name().to_owned(), print_property(property)))
        .collect();
    let mut printed = Map::new();
    printed.insert("type".into(), "object".into());
    printed.insert("additionalProperties".into(), false.into());
    printed.insert("required".into(), json!([element.tag]));
    let inner = json!({
        "type": "object",
        "additionalProperties": false,
        "required": required,
        "properties": properties,
    });
    let tags = Map::from_iter([(element.tag.clone(), inner)]);
    printed.insert("properties".into(), tags.into());
    print_description(&mut printed, element.description());
    printed
}

fn print_property(property: &ElementProperty) -> Value {
    let mut printed = Map::new();
    match property {
        ElementProperty::Child(children) => {
            let tags = children.tags.iter();
            let references: Vec<Value> = tags
                .map(|tag| json!({ "$ref": format!("{DEFS}{tag}") }))
                .collect();
            printed.insert("type".into(), "array".into());
            if children.ordered {
                printed.insert("prefixItems".into(), references.into());
                printed.insert("items".into(), false.into());
            } else {
                printed.insert("items".into(), json!({ "anyOf": references }));
            }
            print_description(&mut printed, children.description());
        }
        ElementProperty::Value(value) => {
            let name = value.value_type.name();
            let never_null = value.required || value.variants.is_some();
            let value_type = if never_null {
                json!(name)
            } else {
                json!([name, "null"])
            };
            printed.insert("type".into(), value_type);
            if let Some(variants) = &value.variants {
                printed.insert("enum".into(), variants.clone().into());
            }
            print_description(&mut printed, value.description());
        }
    }
    Value::Object(printed)
}

fn print_description(printed: &mut Map<String, Value>, description: Option<&str>) {
    if let Some(description) = description {
        printed.insert("description".into(), description.into());
    }
}
